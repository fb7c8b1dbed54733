"""A member's keys and its signing request."""

import json
import pickle
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, ConflictError, HanseError, TooLargeError, TrustError
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.signing import sign

KEYS = MemberKeys.generate()
REQUEST = SigningRequest.request(KEYS, federation="lubeck", kind="site", name="a")


def test_keys_come_back_from_disk(tmp_path: Path) -> None:
    KEYS.save(tmp_path / "keys")
    loaded = MemberKeys.load(tmp_path / "keys")
    assert loaded.signing_public == KEYS.signing_public
    assert loaded.sealing_public == KEYS.sealing_public
    assert loaded.tls_pem() == KEYS.tls_pem()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["keys", "sealing.key", "signing.key", "tls.key"]


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    first = MemberKeys.load_or_create(tmp_path / "keys")
    assert MemberKeys.load_or_create(tmp_path / "keys").signing_public == first.signing_public
    with pytest.raises(ConflictError):
        MemberKeys.generate().save(tmp_path / "keys")


def test_files_that_are_not_the_keys_are_refused(tmp_path: Path) -> None:
    KEYS.save(tmp_path / "keys")
    signing, tls = tmp_path / "keys" / "signing.key", tmp_path / "keys" / "tls.key"
    original = signing.read_bytes()
    signing.write_bytes(tls.read_bytes())
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        MemberKeys.load(tmp_path / "keys")
    signing.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="PEM"):
        MemberKeys.load(tmp_path / "keys")
    signing.write_bytes(original)
    signing.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        MemberKeys.load(tmp_path / "keys")
    signing.unlink()
    with pytest.raises(ConfigError, match=r"signing\.key"):
        MemberKeys.load(tmp_path / "keys")


def test_keys_are_neither_printed_nor_pickled() -> None:
    assert "object at" not in repr(KEYS)
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


def test_request_round_trip() -> None:
    parsed = SigningRequest.parse(REQUEST.content)
    assert parsed == REQUEST
    assert (parsed.federation, parsed.kind, parsed.name) == ("lubeck", "site", "a")
    assert parsed.signing_key == KEYS.signing_public
    assert parsed.sealing_key == KEYS.sealing_public
    assert parsed.digest == REQUEST.digest
    assert b"PRIVATE" not in REQUEST.content


@given(st.integers(min_value=0, max_value=len(REQUEST.content) * 8 - 1))
def test_no_bit_of_a_request_can_be_flipped(bit: int) -> None:
    changed = bytearray(REQUEST.content)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        SigningRequest.parse(bytes(changed))


def _with(**fields: object) -> bytes:
    return canonical_json(json.loads(REQUEST.content) | fields)


def test_fields_of_two_requests_cannot_be_mixed() -> None:
    request = SigningRequest.request(MemberKeys.generate(), federation="lubeck", kind="site", name="a")
    other = json.loads(request.content)
    for name in ("csr", "signing_key", "sealing_key", "sig", "tls_sig"):
        with pytest.raises(TrustError):
            SigningRequest.parse(_with(**{name: other[name]}))
    with pytest.raises(TrustError):  # its own signing key with its signature, over my TLS key
        SigningRequest.parse(_with(signing_key=other["signing_key"], sig=other["sig"]))


def _resigned(**fields: object) -> bytes:
    """A request whose outer signatures both hold, by a member who puts in what it likes."""
    body = {name: value for name, value in json.loads(_with(**fields)).items() if name not in ("sig", "tls_sig")}
    signed = canonical_json(body)
    signatures = {
        "sig": sign(KEYS.signing, "signing-request", signed).hex(),
        "tls_sig": sign(KEYS.tls, "signing-request-tls", signed).hex(),
    }
    return canonical_json(body | signatures)


def test_a_sealing_key_of_small_order_is_refused() -> None:
    SigningRequest.parse(_resigned())
    with pytest.raises(TrustError, match="small order"):
        SigningRequest.parse(_resigned(sealing_key="00" * 32))


def test_a_request_whose_inner_signature_does_not_hold_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(json.loads(REQUEST.content)["csr"].encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    csr = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(TrustError, match="not signed by the key inside"):
        SigningRequest.parse(_resigned(csr=csr))


def test_other_versions_sizes_and_fields_are_refused() -> None:
    with pytest.raises(CodecError, match="version 1"):
        SigningRequest.parse(_with(v=2))
    with pytest.raises(TooLargeError):
        SigningRequest.parse(_with(padding="x" * 20_000))
    with pytest.raises(TrustError):
        SigningRequest.parse(_with(unsigned_extra=1))
    with pytest.raises(CodecError):
        SigningRequest.parse(_with(csr="no certificate signing request"))


def test_a_key_on_another_curve_is_refused() -> None:
    keys = MemberKeys(generate_private_key(SECP384R1()), KEYS.signing, KEYS.sealing)
    with pytest.raises(TrustError, match="P-256"):
        SigningRequest.request(keys, federation="lubeck", kind="site", name="a")


@pytest.mark.parametrize(("kind", "name"), [("site", "A"), ("admin", "a"), ("site", ""), ("site", "a/b")])
def test_names_that_cannot_be_are_refused_at_once(kind: str, name: str) -> None:
    with pytest.raises(ConfigError):
        SigningRequest.request(KEYS, federation="lubeck", kind=kind, name=name)
