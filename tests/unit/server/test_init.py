"""`hanse federation init`: what is made is what a server and its first person need."""

from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.person.federation import Federation
from hanse.server.config import ServerConfig
from hanse.server.init import init_federation
from hanse.trust.authority import Authority
from hanse.trust.tokens import JoinToken


@pytest.mark.parametrize("name", ["demo", "123", "no", "1e5"])
def test_what_is_made_can_be_read(tmp_path: Path, name: str) -> None:
    made = init_federation(tmp_path / "f", ServerConfig(name), person="ada", sites=("a", "b"))
    assert ServerConfig.load(tmp_path / "f").federation == name
    federation = Federation.load(made.person_directory)
    assert (federation.name, federation.membership.identity.name) == (name, "ada")
    assert Authority.load(tmp_path / "f" / "authority").federation == name
    assert {site: JoinToken.decode(token).name for site, token in made.tokens.items()} == {"a": "a", "b": "b"}
    for secret in (tmp_path / "f").rglob("*.key"):
        assert secret.stat().st_mode & 0o077 == 0


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    init_federation(tmp_path / "f", ServerConfig("demo"))
    with pytest.raises(ConfigError, match="already"):
        init_federation(tmp_path / "f", ServerConfig("demo"))


@pytest.mark.parametrize(
    ("person", "sites"), [("Ada", ()), ("../x", ()), ("ada", ("A",)), ("", ()), ("ada", ("server",))]
)
def test_names_that_cannot_be(tmp_path: Path, person: str, sites: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        init_federation(tmp_path / "f", ServerConfig("demo"), person=person, sites=sites)
    assert not (tmp_path / "f" / "server.yaml").exists()


@pytest.mark.parametrize("person", ["server", "store", "authority", "apps"])
def test_a_person_named_as_a_directory_of_the_server(tmp_path: Path, person: str) -> None:
    with pytest.raises(ConfigError):
        init_federation(tmp_path / "f", ServerConfig("demo"), person=person)
    assert not (tmp_path / "f").exists()
