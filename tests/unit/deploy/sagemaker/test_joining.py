"""How a container gets in: by a token in Secrets Manager, and what is said where there is no way to the server."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanse.core.errors import ConfigError, TrustError, UnavailableError
from hanse.demos.local_federation import free_ports
from hanse.deploy.sagemaker.entry import Told, join
from hanse.deploy.sagemaker.jobs import reason_of
from hanse.deploy.sagemaker.joining import invitation
from hanse.trust.tokens import JoinToken

TOLD = Told("medicare", "north", "10.0.0.1:7400", "10.0.0.1:7401", "ab" * 32, "identity")
TOKEN = JoinToken("elsewhere:1", "medicare", "site", "north", 2**52, bytes.fromhex("ab" * 32), b"s" * 32)


async def enrol(token: JoinToken, request: bytes) -> Any:
    raise AssertionError("not called here")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Any:
    moto = pytest.importorskip("moto", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = boto3.client("secretsmanager", region_name="eu-central-1")

        def put(text: str) -> str:
            made: str = client.create_secret(Name="north-token", SecretString=text)["ARN"]
            return made

        yield put


def test_a_token_is_fetched_from_the_sites_own_account_and_used_at_the_servers_address(secret: Any) -> None:
    told = replace(TOLD, join=f"secret:{secret(TOKEN.encode())}")
    token, way = invitation(told, enrol)
    assert token == replace(TOKEN, address=told.enrolment), "the private address, whatever the token names"
    assert way is enrol
    assert TOKEN.secret.hex() not in str(told.hyperparameters())


@pytest.mark.parametrize(
    "other",
    [{"name": "south"}, {"federation": "another"}, {"authority_sha256": bytes(32)}],
)
def test_a_token_for_something_else_is_not_used(secret: Any, other: dict[str, Any]) -> None:
    told = replace(TOLD, join=f"secret:{secret(replace(TOKEN, **other).encode())}")
    with pytest.raises(TrustError, match="expected one for north"):
        invitation(told, enrol)


@pytest.mark.parametrize("way", ["", "secret:", "token:abc"])
def test_another_way_in_is_one_line(way: str) -> None:
    with pytest.raises(ConfigError, match="expected identity, secret:ARN or file:PATH"):
        invitation(replace(TOLD, join=way), enrol)


async def test_no_way_to_the_server_is_named_as_such(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    path = tmp_path / "token"
    path.write_text(TOKEN.encode())
    told = replace(TOLD, enrolment=f"127.0.0.1:{port}", join=f"file:{path}", connect_s=0.3)
    with pytest.raises(UnavailableError) as caught:
        await join(told, tmp_path / "site")
    assert reason_of(f"AlgorithmError: {caught.value}").startswith("the job does not reach the server: check peering")
