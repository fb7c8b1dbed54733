"""Joining by AWS identity: the signature is AWS's, the proof is bound, and what STS says is read narrowly."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from hanse.core.errors import ConfigError, TrustError, UnavailableError
from hanse.server.sts import post
from hanse.trust.aws_identity import BODY, HEADER, AwsIdentity, Proof, allowed, host_of, identity_in, prove, verify

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
BOUND = b"medicare/ab/north/cd"
ARN = "arn:aws:sts::111111111111:assumed-role/FL-execution/SageMaker"


def answer(arn: str = ARN) -> bytes:
    space = "https://sts.amazonaws.com/doc/2011-06-15/"
    return f'<R xmlns="{space}"><GetCallerIdentityResult><Arn>{arn}</Arn></GetCallerIdentityResult></R>'.encode()


def a_proof() -> Proof:
    return prove("AKID", "secret", "token", region="eu-central-1", bound=BOUND, now=NOW)


@pytest.mark.parametrize("session", ["", "a-token"])
def test_the_signature_is_the_one_that_botocore_makes(monkeypatch: pytest.MonkeyPatch, session: str) -> None:
    auth = pytest.importorskip("botocore.auth", reason="botocore is not installed")
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    made = prove("AKID", "secret", session, region="eu-central-1", bound=BOUND, now=NOW)
    headers = {"Content-Type": made.headers["content-type"], HEADER: made.headers[HEADER]}
    request = AWSRequest("POST", f"https://{host_of('eu-central-1')}/", headers=headers, data=BODY)
    for name in ("get_current_datetime",):
        if hasattr(auth, name):
            monkeypatch.setattr(auth, name, lambda *_, **__: NOW.replace(tzinfo=None))
    auth.SigV4Auth(Credentials("AKID", "secret", session or None), "sts", "eu-central-1").add_auth(request)
    assert request.headers["X-Amz-Date"] == made.headers["x-amz-date"]
    assert request.headers["Authorization"] == made.headers["authorization"]


def test_who_signed_is_what_sts_answers_and_sts_is_asked_at_its_own_address() -> None:
    asked: list[tuple[str, Mapping[str, str], bytes]] = []

    def send(address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        asked.append((address, headers, body))
        return 200, answer()

    proof = Proof.decode(a_proof().encode())
    assert verify(proof, BOUND, send) == AwsIdentity("111111111111", "FL-execution")
    ((address, headers, body),) = asked
    assert address == "https://sts.eu-central-1.amazonaws.com/"
    assert headers["host"] == "sts.eu-central-1.amazonaws.com"
    assert body == BODY


def test_a_proof_for_something_else_never_reaches_sts() -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    for other in (b"medicare/ab/south/cd", b"medicare/ab/north/other-keys", b"bank/ab/north/cd"):
        with pytest.raises(TrustError, match="another federation, site or key"):
            verify(a_proof(), other, never)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda proof: b"",
        lambda proof: b"aws1{",
        lambda proof: proof.encode().replace(b"eu-central-1", b"evil.example/"),
        lambda proof: Proof(proof.region, {**proof.headers, "x-forwarded-for": "1"}).encode(),
        lambda proof: Proof(proof.region, {**proof.headers, "x-amz-date": "a\r\nb: c"}).encode(),
        lambda proof: proof.encode().replace(f";{HEADER},".encode(), b","),
        lambda proof: proof.encode().replace(b"SignedHeaders=content-type;host;", b"SignedHeaders=content-type;"),
        # A call that was signed for something else, with our header named where only we would look.
        lambda proof: proof.encode().replace(b"Credential=", f"SignedHeaders=host;{HEADER}, Credential=".encode()),
        lambda proof: proof.encode().replace(b", Signature=", b", SignedHeaders=host;x-amz-date, Signature="),
        lambda proof: proof.encode() + b" " * 9000,
    ],
)
def test_what_is_no_proof_is_refused_before_anything_is_asked(spoil: Any) -> None:
    with pytest.raises(TrustError):
        Proof.decode(spoil(a_proof()))


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (403, b"<E/>", TrustError),
        (503, b"", UnavailableError),
        (302, b"", TrustError),
        (200, b"nothing", TrustError),
        (200, answer("arn:aws:iam::111111111111:user/eve"), TrustError),
        (200, answer("arn:aws:iam::111111111111:role/FL-execution"), TrustError),
        (200, b'<!DOCTYPE x [<!ENTITY a "b">]><R><Arn>&a;</Arn></R>', TrustError),
    ],
)
def test_other_answers_let_nobody_in(status: int, content: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        verify(a_proof(), BOUND, lambda *_: (status, content))


def test_roles_in_paths_and_partitions() -> None:
    assert identity_in(answer(ARN.replace("arn:aws:", "arn:aws-cn:"))).account == "111111111111"
    assert host_of("cn-north-1").endswith(".amazonaws.com.cn")


def test_the_allow_list_is_read_strictly() -> None:
    good = {"north": {"account": "111111111111", "role": "FL-execution"}}
    assert allowed(good, "w") == {"north": AwsIdentity("111111111111", "FL-execution")}
    for bad in (3, {"north": {"account": "1", "role": "x"}}, {"north": {"account": "111111111111"}}, {"n": {**good}}):
        with pytest.raises(ConfigError, match=r"^w: "):
            allowed(bad, "w")


def test_over_a_real_socket_to_an_emulated_sts(monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    emulated = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    emulated.start()
    try:
        host, port = emulated.get_host_and_port()
        address = f"http://{host}:{port}"
        sts = boto3.client("sts", region_name="eu-central-1", endpoint_url=address)
        role = "arn:aws:iam::111111111111:role/FL-execution"
        given = sts.assume_role(RoleArn=role, RoleSessionName="SageMaker")["Credentials"]
        keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        proof = prove(*keys, region="eu-central-1", bound=BOUND)
        assert verify(proof, BOUND, post, endpoint=address) == AwsIdentity("111111111111", "FL-execution")
    finally:
        emulated.stop()
    with pytest.raises(UnavailableError, match="STS cannot be reached"):
        verify(proof, BOUND, post, endpoint=address)
