"""A person's signature under a bundle."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, HanseError, TrustError
from hanse.trust.authority import Authority
from hanse.trust.bundle_signature import sign_bundle, verify_bundle_signature
from hanse.trust.member_record import MemberRecord, verify_record
from tests.unit.trust.conftest import NOW_MS, Member

ID = "ab" * 32


@pytest.fixture
def record(authority: Authority, person: Member) -> MemberRecord:
    return verify_record(person.issued.record, authority.certificate_pem, now_ms=NOW_MS)


@pytest.fixture
def signature(person: Member) -> bytes:
    return sign_bundle(person.keys.signing, bundle_id=ID, federation="lubeck", person="anna", now_ms=NOW_MS)


def test_round_trip(record: MemberRecord, signature: bytes) -> None:
    assert verify_bundle_signature(signature, bundle_id=ID, record=record) == NOW_MS


def test_another_bundle_person_federation_or_key_is_refused(
    record: MemberRecord, signature: bytes, site: Member
) -> None:
    with pytest.raises(TrustError, match="another bundle"):
        verify_bundle_signature(signature, bundle_id="cd" * 32, record=record)
    with pytest.raises(TrustError, match="another person"):
        verify_bundle_signature(signature, bundle_id=ID, record=replace(record, name="ben"))
    with pytest.raises(TrustError, match="another federation"):
        verify_bundle_signature(signature, bundle_id=ID, record=replace(record, federation="hamburg"))
    forged = sign_bundle(site.keys.signing, bundle_id=ID, federation="lubeck", person="anna")
    with pytest.raises(TrustError, match="signature"):
        verify_bundle_signature(forged, bundle_id=ID, record=record)
    with pytest.raises(ConfigError, match="person"):
        verify_bundle_signature(signature, bundle_id=ID, record=replace(record, kind="site"))


@given(data=st.data())
def test_no_bit_can_be_flipped(authority: Authority, person: Member, data: st.DataObject) -> None:
    record = verify_record(person.issued.record, authority.certificate_pem, now_ms=NOW_MS)
    signature = sign_bundle(person.keys.signing, bundle_id=ID, federation="lubeck", person="anna", now_ms=NOW_MS)
    content = bytearray(signature)
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HanseError):
        verify_bundle_signature(bytes(content), bundle_id=ID, record=record)
