"""Member records: signed by the authority, for one certificate, for a time."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, HanseError, TrustError
from hanse.trust.authority import Authority
from hanse.trust.certificates import SKEW_MS, key_fingerprint
from hanse.trust.member_record import verify_record
from hanse.trust.statements import make_statement
from tests.unit.trust.conftest import NOW_MS, Member


def test_record_binds_all_three_keys(authority: Authority, site: Member) -> None:
    record = verify_record(site.issued.record, authority.certificate_pem, now_ms=NOW_MS)
    assert record.signing_key == site.keys.signing_public
    assert record.sealing_key == site.keys.sealing_public
    assert record.tls_key_sha256 == key_fingerprint(site.keys.tls.public_key()).hex()
    assert (record.federation, record.kind, record.name) == ("lubeck", "site", "hospital-a")
    record.check_peer(site.issued.identity)


def test_record_of_another_certificate_is_refused(authority: Authority, site: Member, person: Member) -> None:
    record = verify_record(site.issued.record, authority.certificate_pem, now_ms=NOW_MS)
    with pytest.raises(TrustError, match="does not belong"):
        record.check_peer(person.issued.identity)
    with pytest.raises(TrustError, match="does not belong"):
        record.check_peer(replace(site.issued.identity, serial="1"))


def test_foreign_and_expired_records_are_refused(authority: Authority, site: Member) -> None:
    with pytest.raises(TrustError, match="signature"):
        verify_record(site.issued.record, Authority.create("lubeck").certificate_pem, now_ms=NOW_MS)
    end = site.issued.identity.not_after_ms
    verify_record(site.issued.record, authority.certificate_pem, now_ms=end - 1)
    for now_ms in (end, NOW_MS - SKEW_MS - 1):
        with pytest.raises(TrustError, match="does not hold now"):
            verify_record(site.issued.record, authority.certificate_pem, now_ms=now_ms)


@given(data=st.data())
def test_no_bit_of_a_record_can_be_flipped(authority: Authority, site: Member, data: st.DataObject) -> None:
    changed = bytearray(site.issued.record)
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        verify_record(bytes(changed), authority.certificate_pem, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "admin"),
        ("name", "A"),
        ("signing_key", "00" * 31),
        ("signing_key", "01" + "00" * 31),
        ("sealing_key", "00" * 32),
        ("serial", 5),
        ("not_after_ms", "soon"),
        ("issued_at_ms", True),
        ("tls_key_sha256", None),
    ],
)
def test_even_the_authority_cannot_sign_nonsense(authority: Authority, site: Member, field: str, value: object) -> None:
    body = json.loads(site.issued.record)["body"] | {field: value}
    with pytest.raises((CodecError, TrustError)):
        verify_record(make_statement(authority.key, "member-record", body), authority.certificate_pem, now_ms=NOW_MS)
