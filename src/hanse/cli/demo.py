"""`hanse demo`: a whole federation on this machine, as five processes that talk gRPC over mutual TLS on loopback.

Nothing is simulated but the distance: the authority is made, four hospitals join with tokens and allow one app by
its hash, a person submits it, and everything is ended in order. Keys and stores live in a temporary folder.
"""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hanse.cli.interrupts import stopped_by
from hanse.cli.live import display
from hanse.cli.output import note, number, say
from hanse.cli.processes import Children
from hanse.cli.run import rounds_of
from hanse.cli.scenarios import DATASET, BreastCancer, HeartDisease, Rows, Scenario, Vertical
from hanse.cli.view import View
from hanse.core.errors import ConfigError, HanseError, JobFailed, StorageError, UnavailableError

if TYPE_CHECKING:
    from hanse.clients.loader import AnyApp
    from hanse.person.federation import Federation
    from hanse.rounds.result import Result
    from hanse.server.init import NewFederation

MARKER = ".hanse-demo"
RESULTS = Path("hanse-demo")
"""Below it each demo has a folder, so that none overwrites another's results."""
PERSON = "researcher"
TRIALS = 10
TRACKING_S = 30.0
"""How long members that have trained wait for an MLflow that takes nothing."""
SERVER = "server"
T = TypeVar("T")


class Name(StrEnum):
    """The demos there are."""

    breast_cancer = "breast-cancer"
    heart_disease = "heart-disease"


def demo(
    name: Annotated[Name, typer.Argument(help="Which patients.")] = Name.breast_cancer,
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Rounds of training.")] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Where results go; by default a demo's own in hanse-demo.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="heart-disease: the folder with the four files of UCI; by default the cache.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="heart-disease: how many splits.")] = 5,
    mlflow: Annotated[
        str | None, typer.Option(help="Track each hospital's run and the aggregator's in the MLflow at this address.")
    ] = None,
    vertical: Annotated[
        bool, typer.Option("--vertical", help="Divide the columns, not the patients: a model whose parts stay apart.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep keys, stores and logs of all members, too.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    aws: Annotated[
        str, typer.Option("--aws", help="Without a server, on an emulator of AWS: its URL, as http://127.0.0.1:4566.")
    ] = "",
) -> None:
    """Train across four hospitals on this machine, as five processes that talk gRPC over mutual TLS.

    breast-cancer: scikit-learn's 569 patients, divided so that no hospital sees the whole picture. heart-disease: four
    real hospitals (UCI); the files are not part of Hanse, and the error says where they are. With --vertical three
    organisations know other things about the breast-cancer patients. Ctrl-C ends everything.
    """
    began = time.monotonic()
    scenario = _scenario(name, data, seeds, vertical)
    scenario.check()
    if directory is None:
        directory = RESULTS / (f"{scenario.folder}-aws" if aws else scenario.folder)
    _claim(directory)
    if aws and (vertical or mlflow):
        raise ConfigError("demo: expected --aws alone, found it with --vertical or --mlflow; leave one out")
    place = f"queues, functions and a bucket at {aws}" if aws else "one server, mutual TLS on loopback"
    note(f"Starting a federation: {scenario.who}, {place} …")
    try:
        with stopped_by(signal.SIGTERM, signal.SIGHUP), _home(directory, keep) as home:
            results, rows = (
                _train_on_aws(scenario, home, rounds, aws) if aws else _train(scenario, home, rounds, mlflow)
            )
            kept = scenario.keep(results[0], home, directory)
    except KeyboardInterrupt:
        note("\nstopped; every process has ended")
        raise
    report = results[0].report(directory / "report.html", comparison=rows, title=scenario.title)
    _show(scenario, rows)
    say()
    for what, where in kept.items():
        say(f"{what:<7} {where}")
    say(f"report  {report}")
    if keep:
        say(f"kept    {directory / 'federation'}")
    say(f"took    {time.monotonic() - began:.1f} s")
    if open_:
        import webbrowser

        webbrowser.open(report.absolute().as_uri())


def _scenario(name: Name, data: Path | None, seeds: int, vertical: bool) -> Scenario:
    if vertical:
        if name is not Name.breast_cancer:
            raise ConfigError("--vertical: expected the demo breast-cancer, found another")
        return Vertical()
    return HeartDisease(data, seeds) if name is Name.heart_disease else BreastCancer()


# ---- the federation ----


@dataclass(frozen=True, slots=True)
class _Member:
    """A site of the demo before it joins."""

    name: str
    folder: Path
    token: str


def _train(
    scenario: Scenario, home: Path, rounds: int | None, mlflow: str | None = None
) -> tuple[list["Result"], Rows]:
    """Start the federation, train once per run, end it; results and the comparison."""
    with Children(home / "logs") as children:
        made = _found(scenario, home)
        tracking = None if mlflow is None else {"kind": "mlflow", "uri": mlflow, "prefix": made.config.federation}
        if tracking is not None:
            with (made.person_directory / "federation.yaml").open("a") as file:
                file.write(f"tracking: {json.dumps(tracking)}\n")
        children.start(SERVER, "server", made.directory)
        members = [_Member(name, home / name, token) for name, token in made.tokens.items()]
        folders = {member.name: member.folder for member in members}
        declarations = scenario.write(0, folders)
        app, bundle_id = _app(scenario, rounds)
        for member in members:
            _own(scenario, member, declarations.get(member.name), bundle_id, tracking)
        children.wait_ready(SERVER)
        asyncio.run(_join(members))
        for member in members:
            children.start(member.name, "site", member.folder)
        found = _runs(scenario, app, made.person_directory, folders, children)
        if tracking is not None:
            _await_tracking(tracking, [made.person_directory, *folders.values()])
        return found


def _await_tracking(tracking: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Let members deliver what they have tracked: their folders are removed at the end, and with them what waits."""
    from hanse.tracking import tracker_from
    from hanse.tracking.outbox import Outbox
    from hanse.tracking.tracker import BUFFER

    place = tracker_from(dict(tracking), "tracking").place
    boxes = [Outbox(folder / BUFFER, place) for folder in folders]
    left, since = sum(map(len, boxes)), time.monotonic()
    while left and time.monotonic() - since < TRACKING_S:
        time.sleep(0.1)  # other processes, which announce nothing
        before, left = left, sum(map(len, boxes))
        since = since if left == before else time.monotonic()
    for box in boxes:
        box.close()
    if left:
        note(f"{left} records of runs could not be delivered to {tracking['uri']}, and are lost")


def _train_on_aws(scenario: Scenario, home: Path, rounds: int | None, endpoint: str) -> tuple[list["Result"], Rows]:
    """The same without a server."""
    from hanse.cli.demo_aws import deployed, reach

    members = [_Member(name, home / name, "") for name in scenario.sites]
    folders = {member.name: member.folder for member in members}
    declarations = scenario.write(0, folders)
    app, bundle_id = _app(scenario, rounds)
    for member in members:
        _own(scenario, member, declarations.get(member.name), bundle_id, aws=reach(endpoint))
    with deployed(home, endpoint, scenario.sites, PERSON) as person, Children(home / "logs") as children:
        for member in members:
            children.start(member.name, "site", member.folder)
        return _runs(scenario, app, person, folders, children)


def _runs(
    scenario: Scenario, app: "AnyApp", person: Path, folders: Mapping[str, Path], children: Children
) -> tuple[list["Result"], Rows]:
    results = []
    for run in range(scenario.runs):
        if run:
            scenario.write(run, folders)
        title = scenario.title + (f", split {run + 1} of {scenario.runs}" if scenario.runs > 1 else "")
        results.append(_run(app, scenario.roles, person, title, children))
    return results, scenario.compare(results)


def _found(scenario: Scenario, home: Path) -> "NewFederation":
    from hanse.backends.local.ports import free_ports
    from hanse.server.config import ServerConfig
    from hanse.server.init import init_federation

    port, enrolment_port = free_ports(2)
    config = ServerConfig(
        federation="hospitals", port=port, enrolment_port=enrolment_port, http_port=None, durability="process"
    )
    return init_federation(home / "federation", config, person=PERSON, sites=scenario.sites)


def _app(scenario: Scenario, rounds: int | None) -> tuple["AnyApp", str]:
    """The demo's app, set to wait for all sites, and the SHA-256 that the sites allow."""
    from hanse.clients.loader import find_app, source_of
    from hanse.trust.bundle import build_bundle

    app = find_app(scenario.app)
    scenario.set(app, rounds)
    return app, build_bundle(source_of(app), app.include, object_name=app.name_in_module).id


def _own(
    scenario: Scenario,
    member: _Member,
    declaration: Mapping[str, Any] | None,
    app: str,
    tracking: Mapping[str, Any] | None = None,
    aws: Mapping[str, str] | None = None,
) -> None:
    """What a site's owner writes: where the patients are, that this one app may see them, who may see its runs."""
    import yaml

    datasets = {} if declaration is None else {DATASET: dict(declaration)}
    site = {"datasets": datasets, "workers": {"preload": list(scenario.preload)}}
    site |= {"durability": "process"} | ({} if tracking is None else {"tracking": dict(tracking)})
    site |= {} if aws is None else {"aws": dict(aws)}
    policy = {"apps": [app], "unlisted_apps": "refuse", "people": [PERSON], "datasets": [DATASET]}
    policy |= scenario.policy(member.name)
    member.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (member.folder / "site.yaml").write_text(yaml.safe_dump(site))
    (member.folder / "policy.yaml").write_text(yaml.safe_dump(policy))


async def _join(members: Sequence[_Member]) -> None:
    from hanse.site.join import join_site

    async def one(member: _Member) -> None:
        for trial in range(TRIALS):
            try:
                await join_site(member.folder, member.token)
                return
            except UnavailableError:  # a busy machine may miss the time for a handshake; the server is up
                if trial == TRIALS - 1:
                    raise
                await asyncio.sleep(0.1 * trial)

    await asyncio.gather(*(one(member) for member in members))


def _run(
    app: "AnyApp",
    roles: Mapping[str, Sequence[str]] | None,
    person: Path,
    title: str,
    children: Children,
) -> "Result":
    from hanse.person.federation import Federation
    from hanse.person.jobs import submit

    federation = Federation.load(person)
    job = _patiently(lambda: submit(app, federation, roles=roles))
    view = View(title, rounds=rounds_of(app), job=job.id)
    asyncio.run(_follow(job.id, federation, view, children))
    result = _patiently(job.snapshot)
    if not result.ok:
        raise JobFailed(f"the training {result.status}: {result.error}", result)
    return result


def _patiently(ask: Callable[[], T]) -> T:
    """Ask a server that is known to be up; a busy machine may miss the time for a handshake."""
    for trial in range(TRIALS):
        try:
            return ask()
        except UnavailableError:
            time.sleep(0.1 * trial)
    return ask()


async def _follow(job: str, federation: "Federation", view: View, children: Children) -> None:
    """Show the job until its end, or until a process that it needs has ended."""
    from hanse.person.jobs import Job

    shown = display(view)

    async def events() -> None:
        async for event in Job(job, federation).follow_async():
            shown.take(event)

    following = asyncio.ensure_future(events())
    lost: HanseError | None = None

    def gone(name: str) -> None:
        nonlocal lost
        if name == SERVER or not view.completed:
            lost = UnavailableError(f"{name} has ended: {children.last_words(name)}")
            following.cancel()

    with shown, children.watched(gone):
        try:
            await following
        except asyncio.CancelledError:
            if lost is not None:
                raise lost from None
            raise


# ---- places ----


def _claim(directory: Path) -> None:
    """Make the folder for results ours, or refuse.

    Raises:
        ConfigError: it holds something else. StorageError: it cannot be made.
    """
    if directory.exists() and not (directory.is_dir() and (_is_empty(directory) or (directory / MARKER).exists())):
        raise ConfigError(
            f"{directory}: expected an empty folder or an earlier demo's; choose another with --directory"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER).write_text("The next `hanse demo` may overwrite this folder's files.\n")
    except OSError as error:
        raise StorageError(f"{directory}: cannot be written: {error.strerror}") from None


def _is_empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


@contextmanager
def _home(directory: Path, keep: bool) -> Iterator[Path]:
    """Where the members live: a temporary folder, or one that is kept."""
    if keep:
        home = directory / "federation"
        shutil.rmtree(home, ignore_errors=True)
        (home / "logs").mkdir(parents=True)
        yield home.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="hanse-demo-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "logs").mkdir()
        yield Path(folder)


# ---- the table ----


def _show(scenario: Scenario, rows: Rows) -> None:
    """The comparison, with the best of each column marked."""
    import sys

    columns = [name for name in rows[0] if name != "name"]
    best = {name: (min if "loss" in name else max)(row[name] for row in rows) for name in columns}
    say()
    say(scenario.about)
    if not sys.stdout.isatty():
        for row in rows:
            say(f"  {row['name']:<42}" + "".join(f"  {name} {number(row[name])}" for name in columns))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", padding=(0, 1))
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    for name in columns:
        table.add_column({"auc": "AUC"}.get(name, name.replace("_", " ")), justify="right", no_wrap=True)
    for row in rows:
        mine = str(row["name"]).startswith(("Federated", "Joint"))
        cells = [
            Text(number(row[name]), style="bold" if number(row[name]) == number(best[name]) else "") for name in columns
        ]
        table.add_row(Text(str(row["name"])), *cells, style="green" if mine else "")
    Console().print(table)
