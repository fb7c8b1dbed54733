"""Whether a proposed job may run here: what the policy says, what the owner says, and the word to the server.

A decision is journalled and audited before the server hears of it. That of an accepted job goes out when its worker is
warm; if its app cannot run here, the decision is that.
"""

import asyncio
from typing import Any

import structlog

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, HanseError
from hanse.core.ids import SERVER, check_name
from hanse.core.records import Envelope
from hanse.site.bundles import fetch_app
from hanse.site.journal import JobRow
from hanse.site.policy import ACCEPT, FILE, HOLD, REFUSE, Decision, decide, read_policy
from hanse.site.proposals import Proposal
from hanse.site.runners import Runners
from hanse.site.surroundings import Surroundings
from hanse.site.verdicts import job_named, owner_decides, record
from hanse.trust.certificates import current_ms
from hanse.trust.envelopes import sign_envelope

log = structlog.get_logger("hanse.site")


class Deciding:
    """Decisions of one site.

    Args:
        is_edge: whether the site is a group's edge; see `decide`.
    """

    def __init__(self, around: Surroundings, runners: Runners, *, is_edge: bool) -> None:
        self._around = around
        self._runners = runners
        self._is_edge = is_edge
        self._undecided: dict[str, asyncio.Task[None]] = {}
        self._early: dict[str, dict[str, Envelope]] = {}

    def __len__(self) -> int:
        """How many jobs are being decided."""
        return len(self._undecided)

    async def close(self) -> None:
        """Leave the rest undecided: the server proposes it again."""
        tasks = list(self._undecided.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, job: str) -> None:
        """Do not decide a job any more."""
        self._early.pop(job, None)
        deciding = self._undecided.get(job)
        if deciding is not None:
            deciding.cancel()
            await asyncio.gather(deciding, return_exceptions=True)

    # ---- tasks that come before ----

    def is_early(self, envelope: Envelope) -> bool:
        """Whether a task has come before its job is decided here: to a site that came again without its journal.

        It waits for the decision then. Whoever was this site before has taken the proposal, so it is asked for.
        """
        around, job = self._around, envelope.job
        if job in self._runners or around.replies.knows(envelope.id):
            return False
        if around.journal.job(job) is not None or around.journal.has_ended(job):
            return False
        if job not in self._undecided and job not in self._early and not around.link.ask(job):
            return False
        self._early.setdefault(job, {})[envelope.id] = envelope
        return True

    def _take_early(self, job: str) -> None:
        for envelope in self._early.pop(job, {}).values():
            try:
                self._runners.task(envelope)
            except HanseError as error:
                self._around.refused(envelope, str(error))

    # ---- the policy ----

    def propose(self, envelope: Envelope) -> None:
        """Take a proposal; one that was decided before has the same decision again.

        Raises:
            CodecError: for no job.
        """
        try:
            job = check_name(envelope.job, "job")
        except ConfigError as error:
            raise CodecError(str(error)) from None
        if job in self._undecided:
            return
        journal = self._around.journal
        row = journal.job(job)
        if row is None and journal.has_ended(job):  # or a server could have it run here once more
            row = JobRow(job, b"", REFUSE, "this job has ended at this site; submit the app again for a new one", True)
        if row is not None:
            self.tell(row)
            self._around.link.done("propose", envelope.id)
            return
        self._undecided[job] = asyncio.ensure_future(self._decide(job, envelope))

    async def _decide(self, job: str, envelope: Envelope) -> None:
        try:
            try:
                proposal, decision = self._judge(job, envelope.body)
            except HanseError as error:
                decision = Decision(REFUSE, str(error))
            else:
                if decision.verdict == ACCEPT:
                    decision = await self._prepare(proposal, decision.reason)
            self._settle(job, envelope.body, decision)
            self._take_early(job)
            if decision.verdict == HOLD:
                await self._show(proposal)
        finally:
            self._undecided.pop(job, None)
            if not self._around.stopping.is_set():  # else it is to come again
                self._around.link.done("propose", envelope.id)

    def _judge(self, job: str, content: bytes) -> tuple[Proposal, Decision]:
        around = self._around
        proposal = Proposal.parse(content)
        if proposal.job != job:
            raise CodecError("the proposal is for another job than its message")
        proposal.verify(authority_pem=around.member().authority_pem, federation=around.federation)
        policy = read_policy(around.directory / FILE)
        return proposal, decide(proposal, policy, around.site, is_edge=self._is_edge)

    async def _prepare(self, proposal: Proposal, reason: str) -> Decision:
        runner = self._runners.begin(proposal)
        try:
            await runner.prepare()
        except HanseError as error:
            await self._runners.drop(proposal.job)
            return Decision(REFUSE, f"the app cannot run here: {error}")
        except Exception as error:  # our own fault: the server must hear of it, or it would wait until the deadline
            log.exception("a job could not be prepared", job=proposal.job)
            await self._runners.drop(proposal.job)
            return Decision(REFUSE, f"the site's software failed: {type(error).__name__}; its log says more")
        return Decision(ACCEPT, reason)

    async def _show(self, proposal: Proposal) -> None:
        """Put a held app where its owner can read it before deciding."""
        try:
            await fetch_app(proposal, self._around.transfers, self._around.directory / "jobs" / proposal.job)
        except HanseError as error:
            log.warning("a held app cannot be shown", job=proposal.job, reason=str(error))

    def judge_held(self) -> None:
        """The policy may be another one: what is held is judged by it as it is now."""
        try:
            rows = self._around.journal.jobs()
        except HanseError as error:
            log.error("held jobs are not judged again", reason=str(error))
            return
        for row in rows:
            if row.decision != HOLD:
                continue
            deciding = self._undecided.get(row.job)
            if deciding is None:
                self._undecided[row.job] = asyncio.ensure_future(self._decide_again(row))
            else:  # perhaps by the policy as it was
                deciding.add_done_callback(lambda done: None if done.cancelled() else self.judge_held())

    async def _decide_again(self, row: JobRow) -> None:
        """Judge a held job; one that cannot be judged, such as by a policy that cannot be read, stays held."""
        try:
            proposal, decision = self._judge(row.job, row.proposal)
            if (decision.verdict, decision.reason) == (row.decision, row.reason):
                return
            if decision.verdict == ACCEPT:
                decision = await self._prepare(proposal, decision.reason)
            elif decision.verdict == REFUSE:
                await self._runners.drop(row.job)
            self._settle(row.job, row.proposal, decision)
        except HanseError as error:
            log.warning("a held job stays held", job=row.job, reason=str(error))
        finally:
            self._undecided.pop(row.job, None)

    # ---- the owner ----

    async def by_owner(self, job: str, verdict: str, reason: str) -> JobRow:
        """The owner decides.

        Args:
            job: enough of its id.

        Raises:
            NotFoundError, ConfigError: see `job_named` and `owner_decides`.
        """
        job = job_named(self._around.journal, job)
        before = self._around.journal.job(job)
        row = owner_decides(self._around.journal, self._around.audit, job=job, verdict=verdict, reason=reason)
        if before is not None and before.decision != row.decision:
            await self.stop(job)
            if verdict == REFUSE:
                await self._runners.drop(job)
                self.tell(row)
            else:
                self.approved(row)
        return row

    def approved(self, row: JobRow) -> None:
        """What the owner has let in, and is journalled as accepted, is made so."""
        self._undecided[row.job] = asyncio.ensure_future(self._accept(Proposal.parse(row.proposal), row.reason))

    async def _accept(self, proposal: Proposal, reason: str) -> None:
        try:
            decision = await self._prepare(proposal, reason)
            if decision.verdict == ACCEPT:
                self.tell_again(proposal.job)
            else:
                self._settle(proposal.job, proposal.content, decision)
        finally:
            self._undecided.pop(proposal.job, None)

    # ---- the word ----

    def _settle(self, job: str, content: bytes, decision: Decision) -> None:
        record(
            self._around.journal,
            self._around.audit,
            job=job,
            content=content,
            verdict=decision.verdict,
            reason=decision.reason,
            actor=f"site/{self._around.site}",
        )
        log.info("job decided", job=job, decision=decision.verdict, reason=decision.reason)
        self.tell_again(job)

    def tell_again(self, job: str) -> None:
        """Tell the server what was decided, if the job is still there."""
        row = self._around.journal.job(job)
        if row is not None:
            self.tell(row)

    def tell(self, row: JobRow) -> None:
        """Tell the server of a decision."""
        # The time tells apart what queues bring late or once more from what holds now.
        body: dict[str, Any] = {
            "v": 1,
            "job": row.job,
            "decision": row.decision,
            "reason": row.reason,
            "at_ms": current_ms(),
        }
        envelope = Envelope(
            sender=self._around.site,
            recipient=SERVER,
            id=f"decision/{row.job}",
            kind="decision",
            body=canonical_json(body),
            federation=self._around.federation,
            job=row.job,
        )
        self._around.link.send(sign_envelope(self._around.member().keys.signing, envelope))
