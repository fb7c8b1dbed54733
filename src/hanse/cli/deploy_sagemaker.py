"""`hanse deploy sagemaker …`: training jobs in other organisations' accounts, and a federation over them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse.cli.options import Json
from hanse.cli.output import clean, note, number, say, show_json, show_table
from hanse.core.errors import ConfigError

if TYPE_CHECKING:
    from hanse.deploy.sagemaker.jobs import TrainingJobs
    from hanse.deploy.sagemaker.record import Launched
    from hanse.deploy.sagemaker.settings import Settings

File = Annotated[Path, typer.Argument(help="What is launched: federation.yaml of this recipe.")]
Local = Annotated[bool, typer.Option("--local", help="On this machine: processes in the place of the accounts.")]
Endpoint = Annotated[str, typer.Option("--endpoint-url", help="Another address of AWS, such as an emulator's.")]
HERE = Path("federation.yaml")
TOKENS = "tokens"
"""Where, of a launch's output, what sites of this machine join with is kept."""
COLUMNS = {"site": "SITE", "account": "ACCOUNT", "job": "TRAINING JOB", "status": "STATUS", "doing": "DOING"}


def launch(file: File = HERE, local: Local = False, json: Json = False, endpoint_url: Endpoint = "") -> int:
    """Start a training job in every account, federate them, keep the models, leave nothing running.

    Started again after it was killed, it goes on with the same run. Ctrl-C stops the federation's job and all training
    jobs. --local runs the whole recipe on this machine: each training job is a process with SageMaker's contract.
    """
    from contextlib import nullcontext

    from hanse.cli.run import load
    from hanse.deploy.sagemaker.accounts import check_installed
    from hanse.deploy.sagemaker.launch import Launcher, least
    from hanse.deploy.sagemaker.queues import forget_identities, reached
    from hanse.deploy.sagemaker.record import anew, begin, noted
    from hanse.deploy.sagemaker.server import server_up
    from hanse.deploy.sagemaker.settings import read_settings

    settings = read_settings(file, local=local)
    if not local:
        check_installed()
    app = load(settings.app)
    least(app, len(settings.accounts))
    launched = begin(settings.output)
    if local and launched.job:  # local jobs ended with the launcher that started them
        launched = anew(launched.run + "r")
    shown = _Table(settings) if _is_terminal() and not json else _Lines(quiet=json)
    log = settings.output / "server.log"
    if settings.queues is not None:
        up: Any = nullcontext(reached(settings, local=local))
    else:
        up = server_up(settings, by_identity=not local, log=log, sts=endpoint_url)
    with shown, up as federation:
        launched = noted(settings.output, launched, federation.membership.identity.name)
        backend = _backend(settings, federation, launched, local, endpoint_url)
        try:
            launcher = Launcher(settings, backend, launched, app, shown)
            result = launcher.run(federation)
        finally:
            if local:
                backend.close()  # jobs of this machine end with it
                forget_identities(settings, settings.output / TOKENS)
    if json:
        show_json({**_plain(launcher.launched, settings), "metrics": dict(result.metrics)})
        return 0
    say()
    show_table(_rows(launcher.launched, settings), COLUMNS | {"model": "MODEL"}, empty="No accounts.")
    say()
    say(f"model   {settings.output / 'model.safetensors'}")
    say(f"report  {settings.output / 'report.html'}")
    width = max(map(len, result.metrics), default=0)
    for name, value in sorted(result.metrics.items()):
        say(f"{name:<{width}} {number(value)}")
    return 0


def plan(file: File = HERE, local: Local = False, json: Json = False) -> None:
    """What launching would create in each account, and what it may cost at most."""
    from hanse.deploy.sagemaker.accounts import session_policy
    from hanse.deploy.sagemaker.entry import Told
    from hanse.deploy.sagemaker.request import local_job, training_job
    from hanse.deploy.sagemaker.settings import read_settings

    settings = read_settings(file, local=local)
    rows, requests = [], {}
    for account in settings.accounts:
        told = Told(settings.federation, account.site, "SERVER:PORT", "SERVER:PORT", "AUTHORITY", _way(account))
        if local:
            request = local_job(settings, account, "RUN", told, str(settings.output / "buckets"))
        else:
            request = training_job(settings, account, "RUN", 1, told)
        requests[account.site] = {"request": request} | (
            {} if local else {"role": account.kickoff_arn, "session_policy": session_policy(settings, account)}
        )
        hours = account.max_run_s / 3600
        cost = f"at most {hours * account.hourly_price:.2f} $" if account.hourly_price and not local else "unknown"
        rows.append(
            {
                "site": account.site,
                "account": account.account or "this machine",
                "job": request["TrainingJobName"],
                "machine": account.instance,
                "hours": f"≤ {hours:g}",
                "cost": "nothing" if local else cost,
                "joins by": "its kept identity" if settings.queues is not None else _way(account),
            }
        )
    if json:
        show_json({"federation": settings.federation, "accounts": requests})
        return
    heads = {"site": "SITE", "account": "ACCOUNT", "job": "TRAINING JOB", "machine": "MACHINE", "hours": "HOURS"}
    show_table(rows, heads | {"cost": "COST", "joins by": "JOINS BY"}, empty="No accounts.")
    say()
    say("Each request in full: --json. COST is max_run_s times hourly_price; storage and traffic are not in it.")


def template(
    file: File = HERE,
    site: Annotated[str, typer.Option(help="The organisation; without it, the server's account.")] = "",
) -> None:
    """CloudFormation: roles, bucket, security group, peering of one account. Its owner reads and deploys it."""
    from hanse.deploy.sagemaker.documents import account_template, server_template
    from hanse.deploy.sagemaker.settings import read_settings

    settings = read_settings(file)
    known = {account.site: account for account in settings.accounts}
    if site and site not in known:
        raise ConfigError(f"--site: expected one of {', '.join(known)}; found {site[:60]!r}")
    show_json(account_template(settings, known[site]) if site else server_template(settings))


def status(file: File = HERE, json: Json = False, endpoint_url: Endpoint = "") -> None:
    """What the last launch is doing."""
    from hanse.core.errors import HanseError

    settings, launched, jobs = _taken_up(file, endpoint_url)
    sites = dict(launched.sites)
    if jobs is not None:
        for account in settings.accounts:
            state = sites.get(account.site)
            if state is not None and not state.is_over:
                try:
                    sites[account.site] = jobs.look(account, state.name)
                except HanseError as error:
                    note(f"{account.site}: {clean(str(error))}")
    shown = type(launched)(launched.run, launched.job, launched.status, launched.error, sites)
    if json:
        show_json(_plain(shown, settings))
        return
    say(f"run {shown.run}: {shown.status}{f' ({clean(shown.error)})' if shown.error else ''}, job {shown.job or '–'}")
    show_table(_rows(shown, settings), COLUMNS | {"reason": "REASON"}, empty="No training jobs.")


def stop(file: File = HERE, json: Json = False, endpoint_url: Endpoint = "") -> int:
    """Stop every training job of the last launch."""
    from hanse.core.errors import HanseError
    from hanse.deploy.sagemaker.record import write_record

    settings, launched, jobs = _taken_up(file, endpoint_url)
    if jobs is None:
        raise ConfigError(f"{file}: the last launch was a local one; its jobs end with the launcher")
    failed = 0
    for account in settings.accounts:
        state = launched.sites.get(account.site)
        if state is not None and state.name:
            try:
                jobs.stop(account, state.name)
            except HanseError as error:
                failed += 1
                note(f"error: {account.site}: {clean(str(error))}")
    write_record(settings.output, type(launched)(launched.run, launched.job, "cancelled", "stopped", launched.sites))
    show_json({"run": launched.run, "not_stopped": failed}) if json else say(f"run {launched.run} is stopped")
    return 1 if failed else 0


def _taken_up(file: Path, endpoint: str) -> "tuple[Settings, Launched, TrainingJobs | None]":
    """The last launch, and its jobs; None where they were this machine's."""
    from hanse.deploy.sagemaker.accounts import AccountJobs
    from hanse.deploy.sagemaker.record import read_record
    from hanse.deploy.sagemaker.settings import read_settings

    try:
        settings = read_settings(file)
        remote = True
    except ConfigError:
        settings = read_settings(file, local=True)
        remote = False
    launched = read_record(settings.output)
    if launched is None:
        raise ConfigError(f"{file}: nothing was launched yet; see: hanse deploy sagemaker launch --help")
    remote = remote and not any(state.model.startswith("file:") for state in launched.sites.values())

    def untold(account: Any) -> Any:
        raise ConfigError("this command starts no jobs")

    return settings, launched, AccountJobs(settings, launched.run, untold, endpoint=endpoint) if remote else None


def _backend(settings: "Settings", federation: Any, launched: "Launched", local: bool, endpoint: str) -> Any:
    from hanse.deploy.sagemaker.accounts import AccountJobs
    from hanse.deploy.sagemaker.onsite import LocalTrainingJobs
    from hanse.deploy.sagemaker.queues import local_identity
    from hanse.deploy.sagemaker.server import local_token, told_of

    since: dict[str, Any] = {"since_ms": launched.begun_ms, "job": launched.job}
    if not local:
        told = told_of(settings, federation, _way, **since)
        return AccountJobs(settings, launched.run, told, endpoint=endpoint)
    folder = settings.output / TOKENS

    def join(account: Any) -> str:
        if settings.queues is not None:
            return local_identity(account, folder)
        return local_token(federation, account.site, folder)

    told = told_of(settings, federation, join, idle_s=300.0, **since)
    return LocalTrainingJobs(settings, launched.run, settings.output, told)


def _way(account: Any) -> str:
    from hanse.deploy.sagemaker.queues import way_of

    if account.site_secret:
        return way_of(account)
    return f"secret:{account.token_secret}" if account.token_secret else "identity"


def _rows(launched: "Launched", settings: "Settings") -> list[dict[str, Any]]:
    rows = []
    for account in settings.accounts:
        state = launched.sites.get(account.site)
        row = {"site": account.site, "account": account.account or "this machine", "job": "–", "status": "none"}
        if state is not None:
            row |= {"job": state.name, "status": state.status, "doing": state.doing}
            row |= {"reason": clean(state.reason), "model": state.model or "–"}
        rows.append(row)
    return rows


def _plain(launched: "Launched", settings: "Settings") -> dict[str, Any]:
    found = {"run": launched.run, "job": launched.job, "status": launched.status, "error": launched.error}
    return {**found, "accounts": _rows(launched, settings), "output": str(settings.output)}


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class _Table:
    """A live table of the training jobs, with the round and its metrics below."""

    def __init__(self, settings: "Settings") -> None:
        from rich.console import Console
        from rich.live import Live

        self._settings = settings
        self._round = ""
        self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, launched: "Launched", event: Mapping[str, Any]) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if event["what"] == "round":
            self._round = _round_line(event["record"])
        elif event["what"] == "waiting":
            self._round = clean(f"waiting for the server: {event['reason']}")
        table = Table(box=None, header_style="dim", padding=(0, 1), title=f"run {launched.run}", title_justify="left")
        for head in ("site", "account", "training job", "status", "what it is doing"):
            table.add_column(head, no_wrap=head != "what it is doing")
        for row in _rows(launched, self._settings):
            style = {"Failed": "red", "Completed": "green"}.get(row["status"], "")
            doing = row.get("reason") or row.get("doing", "")
            table.add_row(row["site"], row["account"], row["job"], Text(row["status"], style=style), Text(doing))
        self._live.update(Group(table, Text(self._round)), refresh=True)


def _round_line(record: Mapping[str, Any]) -> str:
    metrics = [f"{n} {number(v)}" for n, v in sorted(record["metrics"].items()) if isinstance(v, int | float)]
    return f"round {record['number']:<4} {len(record['folded'])} sites  {'  '.join(metrics[:6])}"


class _Lines:
    """One line for every change."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last: dict[str, str] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, launched: "Launched", event: Mapping[str, Any]) -> None:
        if self._quiet:
            return
        if event["what"] == "jobs":
            state = launched.sites[event["site"]]
            line = f"{state.site:<12} {state.name}  {state.status}: {state.reason or state.doing}"
            if self._last.get(state.site) != line:
                self._last[state.site] = line
                note(clean(line + ("  (adopted)" if state.adopted else "")))
        elif event["what"] == "round":
            note(_round_line(event["record"]))
        elif event["what"] == "waiting":
            note(clean(f"waiting for the server: {event['reason']}"))
        sys.stderr.flush()
