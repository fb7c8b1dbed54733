"""What runs inside the training container: a site that joins, takes part in one job, leaves the model, and ends.

The site's owner makes the code bundle: `site.yaml` (where `$SM_CHANNEL_TRAIN` and the like stand for folders),
`policy.yaml` (which apps may run: nobody can be asked in a container), and a program:

    from hanse.deploy.sagemaker.entry import main
    main()

Where the server is, and how to join, comes as hyperparameters; none of them is a secret, since DescribeTrainingJob
shows them. What ends badly writes its reason to /opt/ml/output/failure.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import string
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.core.errors import ConfigError, HanseError, UnavailableError
from hanse.core.ids import job_time_ms
from hanse.deploy.sagemaker.contract import Layout
from hanse.workers.launcher import PRELOAD, Launcher

if TYPE_CHECKING:
    from hanse.core.arrays import Arrays
    from hanse.trust.membership import Membership

STOPPED = 143
SITE, POLICY = "site.yaml", "policy.yaml"
LONGEST_REASON = 1000
THE_JOB = "the federation's job"
"""With these words begins what a training job says that ended badly only because the whole did."""
After = Callable[["Arrays", Path], object]
"""Called with the final model's arrays and the folder that becomes model.tar.gz."""


@dataclass(frozen=True, slots=True)
class Told:
    """The hyperparameters.

    Args:
        server, enrolment: `host:port` for members, and for those who join.
        authority: SHA-256 of the federation's certificate authority, in hexadecimal.
        join: `identity`, `secret:ARN` (a join token in Secrets Manager), or `file:PATH` (offline). Without a server
            `packed:secret:ARN` or `packed:file:PATH`: the site's identity (`hanse.site.packed`).
        idle_s: how long no job may be at hand before this one gives up.
        since_ms: when the run of training jobs began, in milliseconds since 1970: jobs of before are none of its own.
        connect_s: how long the server may be out of reach when the site joins.
        job: the federation's job that this one is for; empty where an earlier version began the run.
    """

    federation: str
    site: str
    server: str
    enrolment: str
    authority: str
    join: str
    idle_s: float = 3600.0
    connect_s: float = 600.0
    since_ms: int = 0
    job: str = ""

    def hyperparameters(self) -> dict[str, str]:
        """As `CreateTrainingJob` takes them: JSON in texts."""
        names = (name for name in self.__slots__)
        return {f"hanse-{name.replace('_', '-')}": json.dumps(getattr(self, name)) for name in names}

    @classmethod
    def from_hyperparameters(cls, values: Mapping[str, Any]) -> "Told":
        """Read what `hyperparameters` wrote.

        Raises:
            ConfigError: one is missing.
        """
        found = {name: values.get(f"hanse-{name.replace('_', '-')}") for name in cls.__slots__}
        missing = [
            name for name in ("federation", "site", "server", "enrolment", "authority", "join") if not found[name]
        ]
        if missing:
            raise ConfigError(
                f"hyperparameters: expected hanse-{missing[0]}; start the job with hanse deploy sagemaker"
            )
        return cls(**{name: value for name, value in found.items() if value is not None})


@dataclass(slots=True)
class Ends:
    """Whether the job that this site is there for has ended: whoever belongs to the federation may submit others.

    Where it was not told which one: the first that ended, of those since the run began. One that this site had no part
    in is not the one while there is another at hand.

    Args:
        since_ms: see `Told`.
        own: `Told.job`.
    """

    since_ms: int
    own: str = ""
    job: str = ""
    status: str = ""

    def is_it(self, job: str, status: str, *, ran: bool, is_idle: bool) -> bool:
        """Note that a job has ended; whether it was the one.

        Args:
            ran: whether it ran here.
            is_idle: whether no other is at hand.
        """
        if self.job:
            return False
        if self.own and job != self.own:
            return False
        if not self.own and (job_time_ms(job) < self.since_ms or not (ran or is_idle)):
            return False
        self.job, self.status = job, status
        return True


def main(after: After | None = None) -> None:
    """Be a site for one job, then end the process: with 0 if the job ended well."""
    layout = Layout(Path(os.environ["SM_MODEL_DIR"]).parent.parent.parent)
    try:
        code = _run(layout, after)
    except HanseError as error:
        code = fail(layout, str(error))
    sys.stdout.flush()
    sys.exit(code)


def fail(layout: Layout, reason: str) -> int:
    """Leave the reason where SageMaker looks for it; the exit code."""
    layout.output.mkdir(parents=True, exist_ok=True)
    (layout.output / "failure").write_text(reason[:LONGEST_REASON])
    print(reason, file=sys.stderr)  # noqa: T201 - the job's log
    return 1


def _run(layout: Layout, after: After | None) -> int:
    told = Told.from_hyperparameters(json.loads(os.environ.get("SM_HPS", "{}")))
    directory = layout.base / "hanse-site"
    prepare(directory, Path.cwd(), os.environ)
    from hanse.site.config import FILE, read_config

    config = read_config(directory / FILE)
    launcher = Launcher.start((*PRELOAD, *config.preload), environment=config.environment)
    try:
        return _serve(told, layout, directory, launcher, after)
    finally:
        launcher.stop()


def prepare(directory: Path, bundle: Path, environment: Mapping[str, str]) -> None:
    """The site's folder from the owner's bundle, with the container's folders filled in.

    Raises:
        ConfigError: the bundle lacks a file.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (SITE, POLICY):
        if not (bundle / name).is_file():
            raise ConfigError(f"code bundle: expected {name} beside the program, found none")
    known = {name: value for name, value in environment.items() if name.startswith("SM_")}
    text = string.Template((bundle / SITE).read_text()).safe_substitute(known)
    if "keep_models:" not in text:
        text += "\nkeep_models: true\n"
    (directory / SITE).write_text(text)
    shutil.copy(bundle / POLICY, directory / POLICY)


def _serve(told: Told, layout: Layout, directory: Path, launcher: Launcher, after: After | None) -> int:
    # Imported only now: a launcher that was forked beside threads and keys would hang, or hand them on.
    from hanse.core.logs import configure
    from hanse.core.loops import run
    from hanse.site.agent import Agent

    configure("hanse.site")
    ends = Ends(told.since_ms, told.job)
    stopped = False

    async def work() -> None:
        nonlocal stopped
        await come(told, directory)

        def over(job: str, status: str, ran: bool) -> None:
            if ends.is_it(job, status, ran=ran, is_idle=agent.is_idle):
                agent.stop()

        agent = Agent(directory, launcher=launcher, on_end=over, is_last=True)

        def stop() -> None:
            nonlocal stopped
            stopped = True
            agent.stop()

        if told.job:  # where nobody sees this site come; perhaps another time, when the job has begun
            agent.link.ask(told.job)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        idle = asyncio.ensure_future(_watch_idle(agent, told.idle_s))
        try:
            await agent.run()
        finally:
            idle.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await idle

    run(work())
    if stopped and not ends.job:
        return STOPPED
    if not ends.job:
        raise UnavailableError(f"no job came from {told.server} within {told.idle_s:.0f} s")
    return _leave(layout, directory, ends.job, ends.status, after)


def _leave(layout: Layout, directory: Path, job: str, status: str, after: After | None) -> int:
    """The model into the folder that becomes model.tar.gz."""
    from hanse.core.codec import decode

    kept = directory / "outputs" / job / "model.safetensors"
    layout.model.mkdir(parents=True, exist_ok=True)
    (layout.model / "result.json").write_text(json.dumps({"job": job, "status": status, "model": kept.is_file()}))
    if status != "finished":
        raise UnavailableError(f"{THE_JOB} {job} ended as {status}; the server knows why")
    if kept.is_file():
        shutil.copy(kept, layout.model / "model.safetensors")
        if after is not None:
            after(decode(kept.read_bytes()), layout.model)
    return 0


async def _watch_idle(agent: Any, idle_s: float) -> None:
    """Stop an agent that has no job for too long."""
    since = time.monotonic()
    while True:
        await asyncio.sleep(min(5.0, idle_s))  # a limit of minutes needs no event
        if agent.is_idle:
            if time.monotonic() - since >= idle_s:
                agent.stop()
                return
        else:
            since = time.monotonic()


async def come(told: Told, directory: Path) -> "Membership":
    """Become the site: by joining, or, without a server, with the identity that its owner keeps.

    Raises:
        HanseError: it cannot be, and why.
    """
    from hanse.deploy.sagemaker.joining import PACKED, kept_text
    from hanse.site.packed import unpack

    if not told.join.startswith(PACKED):
        return await join(told, directory)
    text = await asyncio.to_thread(kept_text, told.join.removeprefix(PACKED))
    return unpack(directory, text, federation=told.federation, site=told.site)


async def join(told: Told, directory: Path) -> "Membership":
    """Join the federation as the hyperparameters say; wait for a server that is not up yet.

    Raises:
        TrustError: the server does not let this site in. UnavailableError: it could not be reached in time.
    """
    from hanse.backends.grpc.enrol import enrol
    from hanse.deploy.sagemaker.joining import invitation
    from hanse.trust.joining import join_with

    end = time.monotonic() + told.connect_s
    wait_s = 0.2
    while True:
        try:
            token, way = invitation(told, enrol)
            return await join_with(directory, token, kind="site", enrol=way)
        except UnavailableError as error:
            if time.monotonic() + wait_s > end:
                raise UnavailableError(
                    f"{error}; tried for {told.connect_s:.0f} s: is there a route (peering, PrivateLink), and does the "
                    f"server's security group let this subnet in at its ports?"
                ) from None
        await asyncio.sleep(wait_s)  # between attempts to reach a server that nothing announces
        wait_s = min(2 * wait_s, 10.0)
