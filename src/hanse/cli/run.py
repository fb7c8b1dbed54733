"""`hanse run`: an app goes out, is followed, and its result is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse.cli.options import FEDERATION, Federation, Json
from hanse.cli.output import clean, note, say, show_json
from hanse.core.errors import ConfigError, HanseError

if TYPE_CHECKING:
    from hanse.analytics import Answer
    from hanse.clients.loader import AnyApp
    from hanse.rounds.result import Result


def run(
    app: Annotated[str, typer.Argument(help="The file with the app, app.py or app.py:NAME, or a module.")],
    federation: Federation = FEDERATION,
    name: Annotated[str, typer.Option(help="Shown in listings; by default the file's name.")] = "",
    site: Annotated[list[str] | None, typer.Option(help="Ask this site only; may be given several times.")] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="Of an app of roles: ROLE=SITE; once for each role, or each of its sites.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and do not wait.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the model (safetensors).")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report, an HTML page.")] = None,
    json: Json = False,
) -> int:
    """Submit an app to a federation, follow it live, save its result.

    The app travels as a bundle signed by you: its own file and what hs.App(include=[...]) names. Each site's policy
    decides whether it runs there. Ctrl-C leaves the job running; hanse job cancel ends it.
    """
    from hanse.clients.loader import check_exists
    from hanse.person.federation import Federation as Target
    from hanse.person.jobs import submit

    if detach and (output or report):
        raise ConfigError("run: --detach does not wait for a result; fetch it with: hanse job result JOB --output FILE")
    check_exists(app)  # before anything else is read; importing it may take long, and comes after the federation
    target = Target.load(federation)
    found = load(app)
    job = submit(found, target, name=name, sites=site or None, roles=roles_of(role))
    if detach:
        show_json({"job": job.id}) if json else say(job.id)
        return 0
    from hanse.cli.live import Silent, display, follow
    from hanse.cli.view import View

    view = View(name or Path(app.partition(":")[0]).stem, rounds=rounds_of(found), job=job.id)
    note(f"job {job.id}")
    try:
        follow(job, Silent(view) if json else display(view))
    except KeyboardInterrupt:
        note(f"\nThe job goes on. Look: hanse job logs {job.id} --follow   End it: hanse job cancel {job.id}")
        raise
    result = job.snapshot()
    answer = answer_of(found, result)
    if json:
        show_json(result.to_json() if answer is None else answer.to_json())
    elif answer is not None:
        say(str(answer))
    if answer is not None and report is not None:
        note(f"report  {answer.report(report)}")
        report = None
    keep(result, output, report)
    if result.ok:
        return 0
    if not json:
        note(f"error: job {job.id} {result.status}: {clean(result.error or 'see hanse job show')}")
    return 1


def roles_of(words: list[str] | None) -> dict[str, list[str]] | None:
    """What `--role guest=bank --role host=shop` says.

    Raises:
        ConfigError: a word without an equals sign.
    """
    if not words:
        return None
    found: dict[str, list[str]] = {}
    for word in words:
        role, equals, site = word.partition("=")
        if not (role and equals and site):
            raise ConfigError(f"--role: expected ROLE=SITE, found {word[:60]!r}")
        found.setdefault(role, []).append(site)
    return found


def rounds_of(app: "AnyApp") -> int:
    """How many rounds a job of this app has; one, where sites play roles."""
    from hanse.clients.app import App

    return app.spec().rounds if isinstance(app, App) else 1


def answer_of(app: "AnyApp", result: "Result") -> "Answer | None":
    """What a question of `hs.analytics` came to; None for other apps, and where there is none."""
    from hanse.clients.app import App
    from hanse.strategies.analysis import Analysis

    strategy = app.given_strategy if isinstance(app, App) else None
    return strategy.asked.answer(result.arrays) if isinstance(strategy, Analysis) and result.ok else None


def keep(result: "Result", output: Path | None, report: Path | None) -> None:
    """Write what was asked for, and say where.

    Raises:
        ConfigError: a finished job brought no model. What a failed one lacks is said by its own error.
    """
    if output is not None and result.arrays:
        note(f"model   {result.save(output)}")
    if report is not None:
        note(f"report  {result.report(report)}")
    if output is not None and not result.arrays:
        why = f"{output}: not written: the server has no model of this job"
        if result.ok:
            raise ConfigError(
                f"{why}; where sites play roles, each keeps its own, in outputs/{result.job} of its folder"
            )
        note(why)


def load(target: str) -> "AnyApp":
    """Import a person's app; what it raises becomes one line that names the place.

    Raises:
        ConfigError: there is no app, or importing it fails.
    """
    from hanse.clients.loader import find_app

    try:
        return find_app(target)
    except HanseError:
        raise
    except SystemExit:
        raise ConfigError(f"{target}: the file ended the program while it was imported") from None
    except Exception as error:
        raise ConfigError(f"{target}: {_where(error)}{type(error).__name__}: {error}") from error


def _where(error: Exception) -> str:
    """The last line of the person's own code that was reached."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: " if error.lineno else ""
    trace: Any = error.__traceback__
    line = 0
    while trace is not None:
        if "_hanse_app_" in str(trace.tb_frame.f_globals.get("__name__", "")):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""
