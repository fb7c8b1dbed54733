"""Who belongs to the schedules' federation: keys are slow to make, and the same for every schedule."""

from functools import lru_cache

from hanse.core.ids import SERVER, job_id_of
from hanse.core.records import Envelope
from hanse.trust.authority import Authority
from hanse.trust.envelopes import sign_envelope
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership

FEDERATION, PERSON, EVE = "north", "anna", "site-9"
JOB = job_id_of("j1", PERSON)


@lru_cache
def authority() -> Authority:
    return Authority.create(FEDERATION)


@lru_cache
def member(kind: str, name: str) -> Membership:
    """A member; of the people, adam is an admin and the others are researchers."""
    keys = MemberKeys.generate()
    request = SigningRequest.request(keys, federation=FEDERATION, kind=kind, name=name)
    hosts = ("localhost",) if kind == "server" else ()
    roles = None if kind != "person" else ("admin",) if name == "adam" else ("researcher",)
    issued = authority().issue(request, kind=kind, name=name, hosts=hosts, roles=roles)
    return Membership.check(
        keys,
        certificate_pem=issued.certificate_pem,
        authority_pem=authority().certificate_pem,
        signed_record=issued.record,
        address="none:1",
    )


def signed(name: str, kind: str, id: str, body: bytes, *, by: Membership, job: str = JOB) -> Envelope:
    envelope = Envelope(name, SERVER, id, kind, body, FEDERATION, job, "main")
    return sign_envelope(by.keys.signing, envelope)
