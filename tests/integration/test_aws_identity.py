"""A site joins a real server by AWS identity: over TLS, with an emulated STS behind the server."""

import asyncio
import dataclasses
import signal
from pathlib import Path

import pytest

from hanse.backends.grpc.enrol import enrol
from hanse.core.errors import TrustError
from hanse.demos.local_federation import LocalFederation
from hanse.deploy.sagemaker.entry import Told
from hanse.deploy.sagemaker.joining import invitation
from hanse.trust.authority import Authority
from hanse.trust.aws_identity import AwsIdentity, Proof, prove
from hanse.trust.joining import join_with

server = pytest.importorskip("moto.server", reason="moto's server is not installed")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")


def test_a_container_joins_and_its_replacement_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    emulated = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    emulated.start()
    try:
        address = "http://{}:{}".format(*emulated.get_host_and_port())
        sts = boto3.client("sts", region_name="eu-central-1", endpoint_url=address)

        def signed_by(role: str) -> "object":
            given = sts.assume_role(RoleArn=f"arn:aws:iam::111111111111:role/{role}", RoleSessionName="SageMaker")
            keys = [given["Credentials"][name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]

            def sign(bound: bytes) -> Proof:
                return prove(*keys, region="eu-central-1", bound=bound)

            return sign

        with LocalFederation(tmp_path, {}, durability="process") as federation:
            allowed = {"north": AwsIdentity("111111111111", "FL-execution")}
            config = dataclasses.replace(federation.config, aws_identities=allowed, aws_sts=address)
            config.save(federation.directory / "server")
            federation.server.signal(signal.SIGTERM)
            federation.start_server()
            federation.wait_for_sites([])
            authority = Authority.load(federation.directory / "server" / "authority").sha256.hex()
            told = Told("demo", "north", config.address, config.enrolment_address, authority, "identity")

            def join(place: str, role: str = "FL-execution", site: str = "north") -> str:
                asked = dataclasses.replace(told, site=site)
                token, way = invitation(asked, enrol, sign=signed_by(role))  # type: ignore[arg-type]
                return asyncio.run(join_with(tmp_path / place, token, kind="site", enrol=way)).identity.serial

            first, replacement = join("a"), join("b")
            assert first != replacement
            with pytest.raises(TrustError, match="expected role FL-execution"):
                join("c", role="Another")
            with pytest.raises(TrustError, match="no AWS identity may join"):
                join("d", site="south")
    finally:
        emulated.stop()
