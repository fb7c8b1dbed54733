"""500 connected sites in a few client processes, and rounds of 500 replies each; the server is the real one.

A client process holds many sites' sessions and answers each task with the model plus one, signed by that site.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._apps import NO_OP
from benchmarks._federation import round_times, submit_text
from benchmarks.harness import FOLDER, PeakMemory, Row, at_most, median, resident_memory_mb
from hanse.demos.local_federation import LocalFederation

SITES, PROCESSES, ROUNDS, SIZE = 500, 2, 5, 1000


def run(smoke: bool) -> Iterator[Row]:
    """One federation; the median round."""
    num_sites, rounds = (20, 2) if smoke else (SITES, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="hanse-bench-") as place:
        running = LocalFederation(Path(place), {}, name="bench")
        running.prepare()
        asyncio.run(_enrol(running, num_sites))
        clients: list[subprocess.Popen[bytes]] = []
        try:
            running.start(wait=False)
            command = [sys.executable, "-m", "benchmarks.many_sites", place]
            for number in range(PROCESSES):
                names = [f"site-{n}" for n in range(num_sites)][number::PROCESSES]
                clients.append(
                    subprocess.Popen([*command, json.dumps(names)], stdin=subprocess.PIPE, cwd=FOLDER.parent)
                )
            job = submit_text(running, NO_OP.format(rounds=rounds, sites=num_sites, size=SIZE))
            with PeakMemory([running.server.pid], measure=resident_memory_mb) as memory:
                times = round_times(job)
            result = job.snapshot()
        finally:
            for client in clients:
                client.terminate()
            for client in clients:
                client.wait()
            running.stop()
    if any(len(record.folded) != num_sites for record in result.rounds):
        raise AssertionError(f"expected {num_sites} sites in every round")
    if not np.array_equal(result.arrays["0"], np.full(SIZE, rounds, np.float32)):
        raise AssertionError("the final model is not what the sites' updates make")
    yield at_most("many-sites", f"{num_sites} sites", "round_s_median", median(times), "s", 0.5)
    yield at_most("many-sites", f"{num_sites} sites", "server_rss_mb", memory.peak_mb, "MB", 400.0)


async def _enrol(running: LocalFederation, num_sites: int) -> None:
    """Make every site's keys and certificate as the authority would, before the server starts."""
    from hanse.backends.local import LocalStore
    from hanse.server.members import Members, directory_of
    from hanse.trust.authority import Authority
    from hanse.trust.identity import MemberKeys, SigningRequest
    from hanse.trust.membership import Membership

    home = running.server.directory
    authority = Authority.load(directory_of(home))
    with LocalStore.open(home / "store", "process") as store:
        members = Members(authority, store.ledger, address=running.config.address)
        for number in range(num_sites):
            name = f"site-{number}"
            keys = MemberKeys.generate()
            request = SigningRequest.request(keys, federation="bench", kind="site", name=name)
            issued = authority.issue(request, kind="site", name=name)
            await members.enrol(issued)
            place = running.site_directory(name)
            place.mkdir(parents=True)
            Membership.check(
                keys,
                certificate_pem=issued.certificate_pem,
                authority_pem=authority.certificate_pem,
                signed_record=issued.record,
                address=running.config.address,
            ).save(place)


class _Site:
    """One site's session; answers without a worker."""

    def __init__(self, directory: Path) -> None:
        from hanse.backends.grpc.client import Connection, Credentials
        from hanse.backends.grpc.link import Link
        from hanse.trust.membership import Membership

        self.member = member = Membership.load(directory)
        credentials = Credentials(member.certificate_pem, member.keys.tls_pem(), member.authority_pem)
        self.link = Link(
            lambda: Connection(member.address, credentials), deliver=self.deliver, accepted=lambda *_: None
        )

    def send(self, kind: str, id: str, body: bytes, like: Any) -> None:
        from hanse.core.records import Envelope
        from hanse.trust.envelopes import sign_envelope

        name = self.member.identity.name
        envelope = Envelope(name, "server", id, kind, body, like.federation, like.job, like.component)
        self.link.send(sign_envelope(self.member.keys.signing, envelope))

    async def deliver(self, envelope: Any, count: int) -> None:
        from hanse.core.arrays import Arrays
        from hanse.core.codec import decode, encode
        from hanse.core.records import BlobRef, Reply, Task

        if envelope.kind == "propose":
            answer = {"v": 1, "job": envelope.job, "decision": "accept", "reason": ""}
            self.send("decision", f"decision/{envelope.job}", json.dumps(answer).encode(), envelope)
        elif envelope.kind == "task":
            task = Task.unpack(envelope.body)
            assert task.model is not None
            assert task.model.content is not None
            model = decode(task.model.content)
            update = BlobRef.inline(encode(Arrays({"0": model["0"] + np.float32(1)})))
            reply = Reply(task.id, task.site, num_examples=1, update=update, base=task.model.id)
            self.send("reply", envelope.id, reply.pack(), envelope)
            return
        self.link.done(envelope.kind, envelope.id)


async def _client(place: Path, names: list[str]) -> None:
    sites = [_Site(place / "sites" / name) for name in names]
    await asyncio.gather(*(site.link.run() for site in sites))


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(_client(Path(sys.argv[1]), json.loads(sys.argv[2])))
