"""`hanse job …`: what has been submitted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse.cli.options import FEDERATION, Federation, Json, ask
from hanse.cli.output import clean, note, number, say, show_facts, show_json, show_table, when
from hanse.core.ids import JOB_CHARACTERS, only_job
from hanse.rounds.causes import once

Job = Annotated[str, typer.Argument(help="The job's id, or enough of its beginning or end.")]


def list_(federation: Federation = FEDERATION, json: Json = False) -> None:
    """Every job of the federation, newest first."""
    jobs = ask(federation, "jobs")["jobs"]
    if json:
        show_json({"jobs": jobs})
        return
    rows = [
        job | {"at": when(job["submitted_at_ms"]), "progress": _progress(job), "status": _status(job)} for job in jobs
    ]
    columns = {
        "job": "JOB",
        "name": "NAME",
        "person": "PERSON",
        "status": "STATUS",
        "progress": "ROUND",
        "at": "SUBMITTED",
    }
    show_table(rows, columns, empty="No jobs yet; submit one with: hanse run app.py")


def show(job: Job, federation: Federation = FEDERATION, json: Json = False) -> None:
    """One job: where it stands, what its sites say, its settings."""
    about = ask(federation, "job", job=_resolved(federation, job))
    if json:
        show_json(about)
        return
    facts: dict[str, Any] = {
        "job": about["job"],
        "name": about["name"],
        "person": about["person"],
        "status": _status(about),
        "round": _progress(about),
        "strategy": about["strategy"],
        "app": about["app"],
        "submitted": when(about["submitted_at_ms"]),
    }
    if about.get("roles"):
        facts |= {
            "protocol": about["protocol"],
            "roles": ", ".join(f"{role}: {site}" for role, site in about["roles"].items()),
        }
    if about.get("ended_at_ms"):
        facts["ended"] = when(about["ended_at_ms"])
    if about.get("error"):
        facts["error"] = about["error"]
    show_facts(facts)
    reasons = once({name: str(site.get("reason") or "") for name, site in about["sites"].items()})
    rows = [
        {"site": name, **site, "there": "yes" if site["there"] else "no", "reason": reasons[name]}
        for name, site in about["sites"].items()
    ]
    if rows:
        say()
        show_table(
            rows,
            {"site": "SITE", "decision": "DECISION", "there": "THERE", "stage": "STAGE", "reason": "REASON"},
            empty="",
        )


def logs(
    job: Job,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    federation: Federation = FEDERATION,
) -> None:
    """What has happened in a job, a line each. Logs of the app itself stay at the sites."""
    from hanse.cli.live import display
    from hanse.cli.live import follow as follow_live
    from hanse.cli.view import View, line_of
    from hanse.person.federation import Federation as Target
    from hanse.person.jobs import Job as Attached

    about = ask(federation, "job", job=_resolved(federation, job))
    view = View(about["name"], rounds=about["rounds"], job=about["job"])
    attached = Attached(about["job"], Target.load(federation))
    if follow or about["status"] in _OVER:
        with display(view, every_reply=True) as shown:
            follow_live(attached, shown)
        return
    for record in attached.snapshot().rounds:
        event = {"what": "round", "record": record.to_json()}
        view.take(event)
        say(line_of(view, event))
    say(f"{about['status']}; --follow goes on from here")


def result(
    job: Job,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the model.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report, an HTML page.")] = None,
    federation: Federation = FEDERATION,
    json: Json = False,
) -> None:
    """Fetch a job's result: the last model and what every round was, also while it still runs."""
    from hanse.cli.run import keep
    from hanse.person.federation import Federation as Target
    from hanse.person.jobs import Job as Attached

    found = Attached(_resolved(federation, job), Target.load(federation)).snapshot()
    if json:
        show_json(found.to_json())
    else:
        say(f"{found.status}, {len(found.rounds)} rounds")
        for name, value in sorted(found.metrics.items()):
            say(f"{clean(name):<32} {number(value)}")
    keep(found, output, report)


def cancel(job: Job, federation: Federation = FEDERATION, json: Json = False) -> None:
    """End a job; what its rounds have brought so far can still be fetched."""
    found = ask(federation, "cancel", job=_resolved(federation, job))
    show_json(found) if json else say(f"Job {found['job']} is cancelled.")


def remove(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids, or enough of their beginnings or ends.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    federation: Federation = FEDERATION,
    json: Json = False,
) -> None:
    """Forget jobs that are over: their rounds and their models go for good."""
    found = [_resolved(federation, job) for job in jobs]
    if not yes:
        typer.confirm(f"Remove {', '.join(found)} with all rounds and models?", abort=True, err=True)
    for job in found:
        ask(federation, "remove", job=job)
        if not json:
            say(f"Job {job} is removed.")
    if json:
        show_json({"removed": found})


def resume(job: Job, federation: Federation = FEDERATION, json: Json = False) -> None:
    """Take up a job that has stopped, such as after a disk was full. Jobs go on by themselves when a server starts."""
    found = ask(federation, "resume", job=_resolved(federation, job))
    show_json(found) if json else say(f"Job {found['job']}: {_status(found)}.")


_OVER = ("finished", "failed", "cancelled")


def _resolved(federation: Path, text: str) -> str:
    """A whole id: given in full, or by the only job that begins or ends so."""
    if len(text) == JOB_CHARACTERS:
        return text
    found = only_job(text, _ids(federation))
    if found != text:
        note(f"job {found}")
    return found


def _ids(federation: Path) -> Iterator[str]:
    yield from (str(job["job"]) for job in ask(federation, "jobs")["jobs"])


def _status(job: dict[str, Any]) -> str:
    status = str(job["status"])
    if status == "waiting":
        return "waiting for sites"
    return status


def _progress(job: dict[str, Any]) -> str:
    return f"{job['round']}/{job['rounds']}" if "round" in job else str(job["rounds"])
