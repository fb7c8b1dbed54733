"""A site's identity as one text: what it is good for, and what it is not."""

import json
from pathlib import Path

import pytest

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError, HanseError, TrustError
from hanse.site.config import read_config
from hanse.site.over_queues import SERVER_RECORD
from hanse.site.packed import pack, unpack
from hanse.trust.membership import Membership
from tests.unit.site.bench import FEDERATION, SITE, Town


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """A site of a federation without a server."""
    town, directory = Town(), tmp_path / "joined"
    directory.mkdir()
    Membership.check(
        town.site.keys,
        certificate_pem=town.site.issued.certificate_pem,
        authority_pem=town.authority.certificate_pem,
        signed_record=town.site.issued.record,
        address="",
    ).save(directory)
    (directory / SERVER_RECORD).write_bytes(b"{}")
    aws = "{region: eu-north-1, profile: laptop, role: 'arn:aws:iam::1:role/r', external_id: x}"
    (directory / "site.yaml").write_text(f"aws: {aws}\n")
    return directory


def container(tmp_path: Path, text: str = "durability: process\n") -> Path:
    found = tmp_path / "container"
    found.mkdir()
    (found / "site.yaml").write_text(text)
    return found


def test_a_machine_becomes_the_site(joined: Path, tmp_path: Path) -> None:
    there = container(tmp_path)
    membership = unpack(there, pack(joined), federation=FEDERATION, site=SITE)
    assert membership.signed_record == Membership.load(joined).signed_record
    assert Membership.load(there).keys.signing_public == Membership.load(joined).keys.signing_public
    assert {path.stat().st_mode & 0o777 for path in (there / "keys").iterdir()} == {0o600}
    aws = read_config(there / "site.yaml").aws
    assert aws is not None
    assert (aws.region, aws.role, aws.external_id, aws.profile) == ("eu-north-1", "arn:aws:iam::1:role/r", "x", "")
    unpack(there, pack(joined), federation=FEDERATION, site=SITE)  # a container that starts again


def test_what_the_owner_says_of_aws_stays(joined: Path, tmp_path: Path) -> None:
    there = container(tmp_path, "aws: {region: eu-west-3}\n")
    unpack(there, pack(joined), federation=FEDERATION, site=SITE)
    aws = read_config(there / "site.yaml").aws
    assert aws is not None
    assert aws.region == "eu-west-3"


@pytest.mark.parametrize(
    ("site", "federation", "error"), [("other", FEDERATION, TrustError), (SITE, "other", TrustError)]
)
def test_another_site_s(joined: Path, tmp_path: Path, site: str, federation: str, error: type[HanseError]) -> None:
    there = container(tmp_path)
    with pytest.raises(error, match="expected site"):
        unpack(there, pack(joined), federation=federation, site=site)
    assert not (there / "keys").exists()


def test_a_text_that_says_another_name_than_its_keys(joined: Path, tmp_path: Path) -> None:
    value = json.loads(pack(joined)) | {"site": "other"}
    with pytest.raises(TrustError, match="expected the keys of site other"):
        unpack(container(tmp_path), canonical_json(value).decode() + "\n", federation=FEDERATION, site="other")


@pytest.mark.parametrize(
    "changed", [{"v": 2}, {"keys": {}}, {"aws": {}}, {"aws": {"region": "r", "x": "y"}}, {"membership": 1}]
)
def test_another_text(joined: Path, tmp_path: Path, changed: dict[str, object]) -> None:
    value = json.loads(pack(joined)) | changed
    with pytest.raises(ConfigError, match="hanse site pack"):
        unpack(container(tmp_path), canonical_json(value).decode() + "\n", federation=FEDERATION, site=SITE)


def test_a_site_with_a_server_is_not_packed(joined: Path) -> None:
    (joined / "site.yaml").write_text("")
    with pytest.raises(ConfigError, match="without a server"):
        pack(joined)
