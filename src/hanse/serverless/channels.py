"""Packets between sites, passed on from the server's queue to the recipient's: who sent it, and whether it may.

Sites have no right on each other's queues. What packets hold is sealed; from here they get the links under which the
recipient reads a blob, and a blob that was read goes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from hanse.channels.packets import CHANNEL, MAX_PACKET_BYTES, Packet
from hanse.core.blobs import Manifest
from hanse.core.errors import ConfigError, IntegrityError, NotFoundError, PolicyError, TooLargeError
from hanse.core.ids import SERVER, channel_scope, check_name
from hanse.core.records import Envelope
from hanse.pipeline.request import JobRequest
from hanse.serverless.place import Place
from hanse.serverless.roles import playing

log = structlog.get_logger("hanse.serverless")


async def pass_on(place: Place, envelope: Envelope, row: Mapping[str, Any]) -> None:
    """Pass a packet on to the site that plays its recipient; one of a session that is over goes nowhere.

    Args:
        envelope: verified as its sender's.
        row: the job's.

    Raises:
        PolicyError, CodecError: it is not this site's to send, or too much is on its way already.
        StorageError, UnavailableError: it must come again.
    """
    request = JobRequest.from_json(row["request"])
    packet = Packet.unpack(envelope.body)
    if request.roles is None or request.roles.roles.get(packet.sender) != envelope.sender:
        raise PolicyError("the packet's role is another site's")
    sites = await playing(place, request, packet.session)
    if not {packet.sender, packet.recipient} <= set(sites) or packet.sender == packet.recipient:
        return
    await place.quotas.spend(place.ledger, packet, place.now_ms())
    to = sites[packet.recipient]
    for seq in packet.dropped:
        await place.blobs.delete_scope(channel_scope(packet.session, packet.recipient, packet.sender, seq))
    passed = replace(packet, dropped=(), links=await _links(place, to, packet))
    await place.inbox.send(
        to,
        Envelope(SERVER, to, envelope.id, CHANNEL, passed.pack(), place.federation, request.job, request.component),
        durable=False,
    )


async def _links(place: Place, to: str, packet: Packet) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Under which links the recipient reads the packet's blob. None where it is not there, or not any more."""
    manifest = packet.blob
    if manifest is None or packet.seq is None:
        return ()
    scope = channel_scope(packet.session, packet.sender, packet.recipient, packet.seq)
    try:
        await place.blobs.commit(scope, manifest)
        links = place.links.fresh()
        links.grant(to, read=[(scope, manifest.id)])
        link = await links.get(to, scope, manifest.id, only=range(manifest.num_chunks))
    except (IntegrityError, NotFoundError) as error:
        log.info("a packet without its blob", session=packet.session, sender=packet.sender, reason=str(error))
        return ()
    return tuple((url, link.headers) for url in link.urls)


def is_channel(scope: str) -> bool:
    """Whether blobs of this scope belong to a packet."""
    return scope.split("/")[3:4] == ["channel"]


async def check_writing(place: Place, site: str, request: JobRequest, scope: str, manifest: Manifest) -> None:
    """Return if a site may put a packet's blob there now, and count it.

    Raises:
        PolicyError: it may not, or too much of its lies there. TooLargeError: no packet holds so much.
    """
    if manifest.size > MAX_PACKET_BYTES:
        raise TooLargeError(f"packet: expected at most {MAX_PACKET_BYTES} bytes, found {manifest.size}")
    parts = scope.split("/")
    try:
        session, sender, recipient, seq = "/".join(parts[:3]), check_name(parts[4]), check_name(parts[5]), int(parts[6])
        sites = await playing(place, request, session)
        is_own = sites[sender] == site and recipient in sites
    except (ConfigError, NotFoundError, IndexError, KeyError, ValueError):
        is_own = False
    if not is_own or scope != channel_scope(session, sender, recipient, seq):
        raise PolicyError("this site plays no role now whose messages belong there")
    direction = (session, sender, recipient)
    for read in await place.quotas.put(place.ledger, direction, seq, manifest, place.now_ms()):
        await place.blobs.delete_scope(channel_scope(session, sender, recipient, read))
