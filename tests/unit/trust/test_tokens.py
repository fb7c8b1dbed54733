"""Join tokens: copied whole, used once, in time, for one name."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import CodecError, ConfigError, TrustError
from hanse.trust.authority import Authority
from hanse.trust.certificates import load_certificate
from hanse.trust.tokens import (
    HOUR_MS,
    PREFIX,
    JoinToken,
    TokenRecord,
    check_address,
    make_token,
    redeem,
    token_key,
)

NOW_MS = 1_800_000_000_000


def new_token(**changes: object) -> tuple[JoinToken, TokenRecord]:
    arguments: dict[str, object] = {
        "address": "127.0.0.1:9000",
        "federation": "lubeck",
        "authority_sha256": bytes(range(32)),
        "kind": "site",
        "name": "hospital-a",
        "now_ms": NOW_MS,
    }
    return make_token(**(arguments | changes))  # type: ignore[arg-type]


TOKEN, RECORD = new_token()
TEXT = TOKEN.encode()


def use(
    record: TokenRecord = RECORD, secret: bytes = TOKEN.secret, digest: str = "aa", **changes: object
) -> TokenRecord:
    arguments: dict[str, object] = {"kind": "site", "name": "hospital-a", "now_ms": NOW_MS}
    return redeem(record, secret, request_digest=digest, **(arguments | changes))  # type: ignore[arg-type]


def test_round_trip_also_when_wrapped_by_a_mail_program() -> None:
    assert JoinToken.decode(TEXT) == TOKEN
    assert JoinToken.decode(f"  {TEXT[:40]}\r\n  {TEXT[40:]}\n") == TOKEN
    assert JoinToken.decode(TEXT.upper()) == TOKEN
    assert TEXT.isalnum()
    assert TEXT.startswith(PREFIX)


@given(
    host=st.sampled_from(["localhost", "fl.example.org", "10.0.0.1", "[::1]"]),
    port=st.integers(1, 65535),
    name=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True).filter(lambda name: name != "server"),
    kind=st.sampled_from(["site", "person"]),
)
def test_round_trip_of_any_token(host: str, port: int, name: str, kind: str) -> None:
    token, record = new_token(address=f"{host}:{port}", name=name, kind=kind)
    assert JoinToken.decode(token.encode()) == token
    assert TokenRecord.from_bytes(record.to_bytes()) == record


@given(st.integers(0, len(TEXT) - 1))
def test_a_token_cut_short_says_so(length: int) -> None:
    with pytest.raises(ConfigError, match="cut short" if length >= len(PREFIX) else "begins with"):
        JoinToken.decode(TEXT[:length])


@given(st.integers(len(PREFIX), len(TEXT) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_changed_character_is_noticed(position: int, character: str) -> None:
    changed = TEXT[:position] + character + TEXT[position + 1 :]
    if changed == TEXT:
        assert JoinToken.decode(changed) == TOKEN
        return
    with pytest.raises(ConfigError, match="copy it again"):
        JoinToken.decode(changed)


def test_two_tokens_run_together_and_other_text_are_noticed() -> None:
    with pytest.raises(ConfigError, match="run together"):
        JoinToken.decode(TEXT + "aaaaaaaa")
    with pytest.raises(ConfigError, match="at most"):
        JoinToken.decode(TEXT + TEXT * 10)
    for text in ("", "hello", "hansejoin2" + TEXT[len(PREFIX) :]):
        with pytest.raises(ConfigError, match=f"begins with {PREFIX}"):
            JoinToken.decode(text)
    with pytest.raises(ConfigError, match="letters and the digits"):
        JoinToken.decode(TEXT[:-3] + "1é!")


@given(st.text(max_size=300))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(ConfigError):
            JoinToken.decode(candidate)


def test_the_server_keeps_no_secret() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert TOKEN.secret not in RECORD.to_bytes()
    assert TOKEN.secret.hex().encode() not in RECORD.to_bytes()
    assert RECORD.secret_sha256 == token_key(TOKEN.secret)
    assert len(TOKEN.secret) == 32
    assert new_token()[0].secret != TOKEN.secret


def test_it_is_used_once() -> None:
    used = use()
    assert (RECORD.state, used.state) == ("open", "used")
    assert (used.used_at_ms, used.used_for) == (NOW_MS, "aa")
    assert TokenRecord.from_bytes(used.to_bytes()) == used
    with pytest.raises(TrustError, match="was used before"):
        use(used, digest="bb")


def test_a_lost_answer_may_be_asked_for_again_with_the_same_request() -> None:
    used = use()
    assert use(used, now_ms=NOW_MS + 1000) == used
    with pytest.raises(TrustError, match="expired"):
        use(used, now_ms=RECORD.expires_at_ms)


@given(st.binary(max_size=40))
def test_another_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(TrustError, match="not known"):
        use(secret=secret)


def test_another_name_kind_or_time_is_refused() -> None:
    with pytest.raises(TrustError, match="not for site hospital-b"):
        use(name="hospital-b")
    with pytest.raises(TrustError, match="not for person hospital-a"):
        use(kind="person")
    use(now_ms=NOW_MS + 24 * HOUR_MS - 1)
    with pytest.raises(TrustError, match="expired 0 s ago"):
        use(now_ms=NOW_MS + 24 * HOUR_MS)
    TOKEN.check_time(NOW_MS)
    with pytest.raises(TrustError, match="expired"):
        TOKEN.check_time(TOKEN.expires_at_ms)


def test_it_leads_to_one_authority_only() -> None:
    right, wrong = Authority.create("lubeck"), Authority.create("lubeck")
    token, _ = new_token(authority_sha256=right.sha256)
    token.check_authority(right.certificate_pem)
    with pytest.raises(TrustError, match="another authority"):
        token.check_authority(wrong.certificate_pem)
    shown = [wrong.certificate_pem, load_certificate(right.certificate_pem).public_bytes(Encoding.DER)]
    assert token.find_authority(shown) == right.certificate_pem
    for chain in ([], [wrong.certificate_pem]):
        with pytest.raises(TrustError, match="do not go on"):
            token.find_authority(chain)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "server"},
        {"kind": "admin"},
        {"name": "server"},
        {"name": "A"},
        {"federation": "Lübeck"},
        {"valid_ms": 0},
        {"authority_sha256": b"short"},
        {"address": "nowhere"},
    ],
)
def test_tokens_that_cannot_be_are_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        new_token(**changes)


@pytest.mark.parametrize(
    "address",
    ["", ":1", "a", "a:", "a:0", "a:65536", "a:-1", "a: 1", "a:1 ", "::1:80", "a b:1", "u@a:1", "http://a:1", "é:1"],
)
def test_addresses_are_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        check_address(address)


@pytest.mark.parametrize("content", [b"", b"{}", RECORD.to_bytes()[:-1], RECORD.to_bytes().replace(b'"v":1', b'"v":2')])
def test_records_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(CodecError):
        TokenRecord.from_bytes(content)
