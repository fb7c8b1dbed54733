"""Answers on their way to the server: journalled before they are sent, sent until the server has them.

A reply's update over 64 KiB lies in a file, which is uploaded before the reply goes out and is used again afterwards,
within its job only: user code could have kept it open.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse.core.errors import HanseError
from hanse.core.ids import SERVER, TaskId
from hanse.core.records import Envelope, Reply
from hanse.site.journal import Journal, KeptReply, KeptState
from hanse.site.links import Outgoing
from hanse.site.transfers import Transfers
from hanse.trust.envelopes import sign_envelope

LATER = "later"
LATER_S = 2.0

log = structlog.get_logger("hanse.site")


@dataclass(slots=True)
class _Job:
    """A job's files: how many there are, which are free."""

    directory: Path
    made: int = 0
    spare: list[Path] = field(default_factory=list)


@dataclass(slots=True)
class _Waiting:
    job: str
    envelope: Envelope
    out: Path | None
    upload: "asyncio.Task[None] | None" = None
    journalled: bool = True


class Replies:
    """Every answer that the server may not have yet."""

    def __init__(
        self, journal: Journal, link: Outgoing, transfers: Transfers, key: Ed25519PrivateKey, site: str, federation: str
    ) -> None:
        self._journal = journal
        self._link = link
        self._transfers = transfers
        self._key = key
        self._site = site
        self._federation = federation
        self._waiting: dict[str, _Waiting] = {}
        self._settled: set[str] = set()
        self._jobs: dict[str, _Job] = {}

    @property
    def holding(self) -> Sequence[str]:
        """Ids of tasks whose answer the server may not have."""
        return list(self._waiting)

    def restore(self, jobs: Path) -> None:
        """Take up what the journal holds, and send it.

        Args:
            jobs: the folder with a folder for every job.
        """
        kept, self._settled = self._journal.replies()
        for row in kept:
            try:
                self._restore_one(row, jobs)
            except HanseError as error:  # a damaged row must not keep the site from starting
                log.error("a journalled reply cannot be read", task=row.task, reason=str(error))

    def _restore_one(self, row: KeptReply, jobs: Path) -> None:
        envelope = Envelope.unpack(row.envelope)
        out = None
        if row.out is not None:
            job = self._open(row.job, jobs / row.job)
            out = job.directory / row.out
            job.made = max(job.made, int(row.out.partition("-")[2]) + 1)
        self._hand_in(row.task, _Waiting(row.job, envelope, out))

    # ---- files ----

    def open_job(self, job: str, directory: Path) -> None:
        """A job begins, or goes on."""
        self._open(job, directory)

    def _open(self, job: str, directory: Path) -> _Job:
        return self._jobs.setdefault(job, _Job(directory))

    def take_file(self, job: str) -> Path:
        """A file for one update; written before, most likely, which makes writing it several times faster."""
        files = self._jobs[job]
        if files.spare:
            return files.spare.pop()
        files.made += 1
        return files.directory / f"out-{files.made - 1}"

    def give_file(self, job: str, path: Path) -> None:
        """It is not needed any more."""
        if job in self._jobs:
            self._jobs[job].spare.append(path)

    # ---- answers ----

    def knows(self, task: str) -> bool:
        """Whether the task has been answered."""
        return task in self._waiting or task in self._settled

    def again(self, task: str) -> None:
        """The task came again: so does its answer, or the word that the server has it."""
        waiting = self._waiting.get(task)
        if waiting is None:
            self._link.done("task", task)
        elif waiting.upload is None:
            self._link.send(waiting.envelope)

    def add(self, job: str, reply: Reply, *, out: Path | None = None, packed: bytes | None = None) -> str:
        """Take an answer. `keep` journals it and `start` sends it, in the order that its loss would call for.

        Args:
            out: the file that holds its update.
            packed: the answer as it was packed already.

        Returns:
            The task's id.
        """
        task = str(reply.task)
        self._waiting[task] = _Waiting(job, self._sign(reply, packed), out, journalled=False)
        return task

    def keep(self, task: str, *, state: bytes | KeptState | None = None) -> None:
        """Journal an answer. Harmless if the server has it by now.

        Args:
            state: the state after the task, if it has changed.

        Raises:
            StorageError: the journal cannot be written; nothing was kept.
        """
        waiting = self._waiting.get(task)
        if waiting is not None:
            out = None if waiting.out is None else waiting.out.name
            envelope = waiting.envelope
            self._journal.keep(task, waiting.job, envelope.component, envelope.pack(), out=out, state=state)
            waiting.journalled = True

    def drop(self, task: str) -> None:
        """Take an answer back that was not sent; its file is free."""
        waiting = self._waiting.pop(task, None)
        if waiting is not None and waiting.out is not None:
            self.give_file(waiting.job, waiting.out)

    def start(self, task: str) -> None:
        """Send what was added."""
        waiting = self._waiting.get(task)
        if waiting is not None:
            self._hand_in(task, waiting)

    def refuse(self, task: TaskId, kind: str, message: str) -> None:
        """Answer an error that needs no journal: asked again, the answer is the same."""
        self._link.send(self._sign(Reply.failed(task, self._site, kind, message)))

    def accepted(self, task: str, outcome: str, reason: str) -> None:
        """The server said what became of an answer. `later`: it cannot keep it now, and gets it again."""
        if outcome == LATER and task in self._waiting:
            log.warning("the server cannot keep a reply now", task=task, reason=reason)
            asyncio.get_running_loop().call_later(LATER_S * (0.5 + random.random()), self.start, task)
            return
        waiting = self._waiting.pop(task, None)
        if waiting is None:
            return
        if outcome == "refused":
            log.warning("reply refused", task=task, reason=reason)
        self._settled.add(task)
        if waiting.journalled:
            self._journal.settle(task)
        if waiting.out is not None:
            self._journal.flush()  # before the file is written again
            self.give_file(waiting.job, waiting.out)

    def forget(self, job: str) -> None:
        """The job is over."""
        for task in [task for task, waiting in self._waiting.items() if waiting.job == job]:
            waiting = self._waiting.pop(task)
            if waiting.upload is not None:
                waiting.upload.cancel()
        self._settled = {task for task in self._settled if not task.startswith(f"{job}/")}
        self._jobs.pop(job, None)

    def close(self) -> None:
        """Stop uploading; the journal keeps the rest."""
        for waiting in self._waiting.values():
            if waiting.upload is not None:
                waiting.upload.cancel()

    def _hand_in(self, task: str, waiting: _Waiting) -> None:
        self._waiting[task] = waiting
        if waiting.out is None:
            self._link.send(waiting.envelope)
        else:
            waiting.upload = asyncio.ensure_future(self._upload(task, waiting, waiting.out))

    async def _upload(self, task: str, waiting: _Waiting, out: Path) -> None:
        reply = Reply.unpack(waiting.envelope.body)
        try:
            if reply.update is not None:
                self._link.report(task, "uploading")
                await self._transfers.upload(out, reply.update, task=task)
        except (HanseError, OSError, ValueError) as error:
            # What cannot be handed in is an error like any other; a server that has moved on finds it late.
            log.warning("upload refused", task=task, reason=str(error))
            self._fail(task, waiting, reply.task, str(error))
        except Exception as error:  # the top of a task: nobody else would notice that no answer ever goes out
            log.error("upload failed", task=task, exc_info=error)
            self._fail(task, waiting, reply.task, "the site has failed; its log says why")
        waiting.upload = None
        self._link.send(waiting.envelope)

    def _fail(self, task: str, waiting: _Waiting, id: TaskId, reason: str) -> None:
        failed = Reply.failed(id, self._site, "lost", f"the update could not be handed in: {reason}")
        waiting.envelope = self._sign(failed)
        try:
            self.keep(task)
        except HanseError as error:  # after a crash, the upload is tried again
            log.error("journal refused", task=task, reason=str(error))

    def _sign(self, reply: Reply, packed: bytes | None = None) -> Envelope:
        return sign_envelope(
            self._key,
            Envelope(
                sender=self._site,
                recipient=SERVER,
                id=str(reply.task),
                kind="reply",
                body=reply.pack() if packed is None else packed,
                federation=self._federation,
                job=reply.task.job,
                component=reply.task.component,
            ),
        )
