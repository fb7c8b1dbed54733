"""The authority: what it issues, to whom, and what it keeps."""

import pickle
import stat
from pathlib import Path

import pytest
from cryptography import x509

from hanse.core.errors import ConfigError, ConflictError, TrustError
from hanse.trust.authority import DAY_MS, Authority, Issued, federation_of
from hanse.trust.certificates import load_certificate
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.member_record import verify_record
from tests.unit.trust.conftest import NOW_MS, Member, enrol


def request(kind: str = "site", name: str = "a", federation: str = "lubeck") -> SigningRequest:
    return SigningRequest.request(MemberKeys.generate(), federation=federation, kind=kind, name=name)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    made = Authority.create("lubeck", now_ms=NOW_MS)
    saved = made.save(tmp_path / "authority")
    loaded = Authority.load(tmp_path / "authority")
    assert loaded == saved
    assert (loaded.federation, loaded.sha256) == ("lubeck", made.sha256)
    assert federation_of(loaded.certificate_pem) == "lubeck"
    assert stat.S_IMODE((tmp_path / "authority" / "authority.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    with pytest.raises(ConflictError, match="exists already"):
        made.save(tmp_path / "authority")
    issued = enrol(loaded, "site", "a").issued
    assert verify_record(issued.record, made.certificate_pem, now_ms=NOW_MS).serial == issued.identity.serial


def test_damaged_or_exchanged_files_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Authority.create(name).save(tmp_path / name)
    (tmp_path / "a" / "authority.pem").write_bytes((tmp_path / "b" / "authority.pem").read_bytes())
    with pytest.raises(ConfigError, match="does not belong"):
        Authority.load(tmp_path / "a")
    key = tmp_path / "b" / "authority.key"
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Authority.load(tmp_path / "b")
    key.chmod(0o600)
    key.write_bytes(key.read_bytes()[:60])
    with pytest.raises(ConfigError, match="as Hanse wrote them"):
        Authority.load(tmp_path / "b")
    with pytest.raises(ConfigError, match="expected a readable file"):
        Authority.load(tmp_path / "c")


def test_serials_are_recorded_before_they_are_given(tmp_path: Path) -> None:
    authority = Authority.create("lubeck").save(tmp_path)
    first = enrol(authority, "site", "a").issued.identity
    journal = tmp_path / "issued.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"kind":"si')  # a crash
    second = enrol(authority, "person", "b").issued.identity
    assert Authority.load(tmp_path).issued() == [first, second]
    assert first.serial != second.serial


@pytest.mark.parametrize(("kind", "name"), [("site", "b"), ("person", "a"), ("server", "a")])
def test_only_what_was_granted_is_given(authority: Authority, kind: str, name: str) -> None:
    with pytest.raises(TrustError, match=f"expected a request for {kind} {name}"):
        authority.issue(request(), kind=kind, name=name, hosts=("localhost",) if kind == "server" else ())
    with pytest.raises(TrustError, match="of other"):
        authority.issue(request(federation="other"), kind="site", name="a")


def test_hosts_belong_to_servers_only(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="hosts"):
        authority.issue(request(), kind="site", name="a", hosts=("localhost",))
    with pytest.raises(ConfigError, match="hosts"):
        authority.issue(request("server", "server"), kind="server", name="server")
    for host in ("localhost:1", "*.example.org", "a b", "", "a/b", "exämple.org"):
        with pytest.raises(ConfigError, match="hosts"):
            authority.issue(request("server", "server"), kind="server", name="server", hosts=(host,))


def test_server_names_and_addresses(authority: Authority) -> None:
    hosts = ("localhost", "127.0.0.1", "::1", "fl.example.org", "localhost")
    issued = enrol(authority, "server", "server", hosts=hosts).issued
    names = load_certificate(issued.certificate_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "fl.example.org"]
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_no_certificate_outlives_the_authority() -> None:
    authority = Authority.create("lubeck", days=10, now_ms=NOW_MS)
    end = authority._not_after_ms()
    assert enrol(authority, "site", "a").issued.identity.not_after_ms == end
    with pytest.raises(ConfigError, match="days"):
        enrol(authority, "site", "a", now_ms=end + 1)
    assert enrol(authority, "site", "a", days=0.5).issued.identity.not_after_ms == NOW_MS + DAY_MS // 2


def test_a_renewal_keeps_every_key(authority: Authority, site: Member) -> None:
    record = verify_record(site.issued.record, authority.certificate_pem, now_ms=NOW_MS)
    mine, other = site.keys, MemberKeys.generate()

    def renew(keys: MemberKeys, name: str = "hospital-a") -> Issued:
        asked = SigningRequest.request(keys, federation="lubeck", kind="site", name=name)
        return authority.renew(asked, record=record, now_ms=NOW_MS + DAY_MS)

    renewed = renew(mine)
    assert renewed.identity.not_after_ms == site.issued.identity.not_after_ms + DAY_MS
    for keys in (
        MemberKeys(other.tls, mine.signing, mine.sealing),
        MemberKeys(mine.tls, other.signing, mine.sealing),
        MemberKeys(mine.tls, mine.signing, other.sealing),
    ):
        with pytest.raises(TrustError, match="new join token"):
            renew(keys)
    with pytest.raises(TrustError, match="expected a request for site hospital-a"):
        renew(mine, "hospital-b")


def test_keys_are_neither_printed_nor_pickled(authority: Authority) -> None:
    assert "key" not in repr(authority)
    with pytest.raises(TypeError):
        pickle.dumps(authority)
