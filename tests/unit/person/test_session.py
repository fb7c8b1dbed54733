"""A person's certificate is renewed by the session that finds it near its end, and a failure costs nothing."""

from pathlib import Path

import pytest

from hanse.core.errors import UnavailableError
from hanse.core.proto import hanse_pb2 as pb
from hanse.person.federation import Federation, Session
from hanse.server.init import certify
from hanse.trust import certificates
from hanse.trust.authority import Authority
from hanse.trust.identity import SigningRequest
from hanse.trust.membership import Membership


class Server:
    """What a session asks, here of the authority itself; `asked` counts."""

    def __init__(self, authority: Authority, *, is_there: bool) -> None:
        self._authority = authority
        self._is_there = is_there
        self.asked = 0

    async def renew(self, signing_request: bytes) -> pb.JoinReply:
        self.asked += 1
        if not self._is_there:
            raise UnavailableError("the server cannot be reached")
        request = SigningRequest.parse(signing_request)
        issued = self._authority.issue(request, kind="person", name="anna", roles=("researcher",))
        return pb.JoinReply(certificate=issued.certificate_pem.decode(), member_record=issued.record)

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("of_its_life", "is_there", "asked", "renewed"),
    [(0.6, True, 0, False), (0.7, True, 1, True), (0.7, False, 1, False)],
)
async def test_a_session_renews_what_is_near_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_its_life: float, is_there: bool, asked: int, renewed: bool
) -> None:
    authority = Authority.create("lubeck")
    member, _ = certify(authority, "lubeck", "127.0.0.1:1", "person", "anna", roles=("researcher",))
    member.save(tmp_path)
    now = member.identity.not_before_ms + of_its_life * (member.identity.not_after_ms - member.identity.not_before_ms)
    monkeypatch.setattr(certificates.time, "time_ns", lambda: int(now) * 1_000_000)
    session = Session(Federation("lubeck", "127.0.0.1:1", member, tmp_path))
    await session.connection.close()
    server = Server(authority, is_there=is_there)
    monkeypatch.setattr(session, "connection", server)
    async with session:
        pass
    assert server.asked == asked
    assert (Membership.load(tmp_path).identity.serial != member.identity.serial) == renewed
