"""The identity in a certificate: strict both ways."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, HanseError, TrustError
from hanse.trust.authority import DAY_MS, Authority
from hanse.trust.certificates import (
    SKEW_MS,
    authority_key,
    fingerprint,
    identity_uri,
    load_certificate,
    parse_identity_uri,
    peer_identity,
    verify_certificate,
)
from tests.unit.trust.conftest import NOW_MS, Member, enrol

URI = "hanse://lubeck/site/hospital-a"


@pytest.mark.parametrize("kind", ["site", "person", "server"])
def test_identity_comes_back(authority: Authority, kind: str) -> None:
    issued = enrol(authority, kind, "server" if kind == "server" else "anna-1").issued
    identity = peer_identity(issued.certificate_pem)
    assert (identity.kind, identity.federation) == (kind, "lubeck")
    der = load_certificate(issued.certificate_pem).public_bytes(Encoding.DER)
    assert identity == issued.identity == peer_identity(der)
    assert identity == peer_identity(issued.certificate_pem.decode())
    assert identity == verify_certificate(issued.certificate_pem, authority.certificate_pem, now_ms=NOW_MS)
    assert identity.not_before_ms == NOW_MS - SKEW_MS
    assert identity.not_after_ms == NOW_MS + 30 * DAY_MS
    assert identity.not_before_ms < identity.renew_at_ms < identity.not_after_ms


def test_time_is_checked_with_five_minutes_of_skew(authority: Authority, site: Member) -> None:
    identity = site.issued.identity
    identity.check_time(NOW_MS - SKEW_MS)
    identity.check_time(identity.not_after_ms - 1)
    with pytest.raises(TrustError, match="begins in 1 s"):
        identity.check_time(NOW_MS - SKEW_MS - 1000)
    with pytest.raises(TrustError, match="expired 0 s ago"):
        identity.check_time(identity.not_after_ms)
    with pytest.raises(TrustError, match="expired 0 s ago"):
        verify_certificate(site.issued.certificate_pem, authority.certificate_pem, now_ms=identity.not_after_ms)


def test_a_foreign_authority_of_the_same_name_is_refused(site: Member) -> None:
    foreign = Authority.create("lubeck", now_ms=NOW_MS)
    with pytest.raises(TrustError, match="not issued by this federation's authority"):
        verify_certificate(site.issued.certificate_pem, foreign.certificate_pem, now_ms=NOW_MS)
    with pytest.raises(TrustError, match="expected a federation's authority"):
        verify_certificate(site.issued.certificate_pem, site.issued.certificate_pem, now_ms=NOW_MS)


@given(st.data())
def test_no_bit_of_what_is_certified_can_be_flipped(authority: Authority, site: Member, data: st.DataObject) -> None:
    certificate = load_certificate(site.issued.certificate_pem)
    der = bytearray(certificate.public_bytes(Encoding.DER))
    bit = data.draw(st.integers(0, len(der) * 8 - 1))
    der[bit // 8] ^= 1 << bit % 8
    # DER writes a signature as a bit string; the count of its unused bits is the one place that nothing covers.
    unused_bits = len(der) - len(certificate.signature) - 1
    try:
        identity = verify_certificate(bytes(der), authority.certificate_pem, now_ms=NOW_MS)
    except HanseError:
        return
    assert bit // 8 == unused_bits
    assert identity == site.issued.identity


@given(st.binary(max_size=200))
def test_random_bytes_are_no_certificate(content: bytes) -> None:
    for prefix in (b"", b"-----BEGIN CERTIFICATE-----\n"):
        with pytest.raises(TrustError):
            peer_identity(prefix + content)


def _certificate(
    *,
    names: list[x509.GeneralName] | None,
    common_names: tuple[str, ...] = ("hospital-a",),
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool | None = False,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """A certificate signed by itself, of any shape an attacker's authority could give it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(signer or key, SHA256()).public_bytes(Encoding.PEM)


def _uris(*uris: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(uri) for uri in uris]


def test_the_test_helper_makes_one_that_is_taken() -> None:
    assert peer_identity(_certificate(names=_uris(URI))).name == "hospital-a"


BAD: dict[str, Callable[[], bytes]] = {
    "no names": lambda: _certificate(names=None),
    "no uri": lambda: _certificate(names=[x509.DNSName("hospital-a")]),
    "two uris": lambda: _certificate(names=_uris(URI, "hanse://lubeck/site/other")),
    "same uri twice": lambda: _certificate(names=_uris(URI, URI)),
    "uri and host": lambda: _certificate(names=[*_uris(URI), x509.DNSName("server")]),
    "other common name": lambda: _certificate(names=_uris(URI), common_names=("other",)),
    "two common names": lambda: _certificate(names=_uris(URI), common_names=("hospital-a", "hospital-a")),
    "no common name": lambda: _certificate(names=_uris(URI), common_names=()),
    "authority": lambda: _certificate(names=_uris(URI), ca=True),
    "no constraints": lambda: _certificate(names=_uris(URI), ca=None),
    "server usage": lambda: _certificate(names=_uris(URI), usage=ExtendedKeyUsageOID.SERVER_AUTH),
    "no usage": lambda: _certificate(names=_uris(URI), usage=None),
    "other curve": lambda: _certificate(names=_uris(URI), key=ec.generate_private_key(ec.SECP384R1())),
    "rsa": lambda: _certificate(names=_uris(URI), key=rsa.generate_private_key(65537, 2048)),
    "unknown kind": lambda: _certificate(names=_uris("hanse://lubeck/admin/hospital-a")),
    "another scheme": lambda: _certificate(names=_uris("spiffe://lubeck/site/hospital-a")),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_any_other_shape_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(TrustError):
        peer_identity(make())


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hanse://lubeck/site/",
        "hanse://lubeck/site/a/b",
        "hanse://lubeck/site/A",
        "hanse://lubeck/site/a?x=1",
        "hanse://lubeck/site/a#x",
        "hanse://lubeck/site/a\n",
        "hanse://lubeck/site/%61",
        "hanse://lubeck/site/..",
        "hanse://u@lubeck/site/a",
        "hanse://lubeck:1/site/a",
        "HANSE://lubeck/site/a",
        " hanse://lubeck/site/a",
    ],
)
def test_uris_have_one_form(uri: str) -> None:
    with pytest.raises(TrustError):
        parse_identity_uri(uri)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True), st.sampled_from(["site", "person", "server"]))
def test_uri_round_trip(name: str, kind: str) -> None:
    assert parse_identity_uri(identity_uri("lubeck", kind, name)) == ("lubeck", kind, name)


def test_refuses_names_and_kinds_that_cannot_be() -> None:
    for arguments in (("lubeck", "admin", "a"), ("Lübeck", "site", "a"), ("lubeck", "site", "a/b")):
        with pytest.raises(ConfigError):
            identity_uri(*arguments)


def test_longest_name_fits(authority: Authority) -> None:
    assert enrol(authority, "site", "a" * 63).issued.identity.name == "a" * 63


def test_authority_key_refuses_one_that_did_not_sign_itself(authority: Authority) -> None:
    key = authority_key(authority.certificate_pem)
    assert key == authority.key.public_key()
    assert len(fingerprint(authority.certificate_pem)) == 32
    authority_key(_certificate(names=None, ca=True))
    signed_by_another = _certificate(names=None, ca=True, signer=ec.generate_private_key(ec.SECP256R1()))
    for other in (_certificate(names=_uris(URI)), signed_by_another):
        with pytest.raises(TrustError):
            authority_key(other)
