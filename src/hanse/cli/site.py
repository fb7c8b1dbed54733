"""`hanse site …`: what an admin does with sites, and what a site's owner does in the site's folder."""

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse.cli.options import FEDERATION, HERE, Directory, Federation, Json, ask, existing, token_from
from hanse.cli.output import day, note, say, show_facts, show_json, show_reveals, show_table, when

_JOIN_FIRST = "join with: hanse site join TOKEN"


def invite(
    name: Annotated[str, typer.Argument(help="The site's name: a-z, 0-9, '-' and '_'.")],
    hours: Annotated[float, typer.Option(min=0.01, help="How long the token holds.")] = 24.0,
    federation: Federation = FEDERATION,
    json: Json = False,
) -> None:
    """Make a join token for a new site. It works once. Only an admin can."""
    token = ask(federation, "invite", kind="site", name=name, hours=hours)["token"]
    if json:
        show_json({"site": name, "token": token})
        return
    note(f"Give this to the owner of {name}, who runs: hanse site join TOKEN")
    say(token)


def request(
    federation: Annotated[str, typer.Argument(help="The federation's name.")],
    name: Annotated[str, typer.Argument(help="This site's name in it.")],
    directory: Directory = HERE,
) -> None:
    """Make this site's keys, and a request for a federation that has no server. Nothing in the request is secret."""
    from hanse.trust.admission import fingerprint_of
    from hanse.trust.admission import request as make
    from hanse.trust.certificates import SITE

    path = make(directory, federation, name, kind=SITE)
    note("Hand this file to the federation's operator, who gives back an admission. Then: hanse site join ADMISSION")
    note(f"Tell the operator its fingerprint by another way: {fingerprint_of(path.read_bytes())}")
    say(str(path))


def join(
    token: Annotated[str, typer.Argument(help="The join token, or the operator's admission; - reads a token.")],
    directory: Directory = HERE,
) -> None:
    """Join a federation. Keys are made in this folder and never leave it; a certificate comes back."""
    if token.endswith(".json"):
        from hanse.site.join import join_by_hand
        from hanse.trust.certificates import fingerprint

        membership = join_by_hand(directory, Path(token))
        say("Compare the authority's fingerprint with the one that the operator tells you:")
        say(f"  {fingerprint(membership.authority_pem).hex()}")
        renewed = "until {day}; ask the operator for another admission before that"
    else:
        from hanse.site.join import join_site

        membership = asyncio.run(join_site(directory, token_from(token)))
        renewed = "until {day} that renews itself"
    identity = membership.identity
    say(
        f"Site {identity.name} belongs to federation {identity.federation}, with a certificate "
        f"{renewed.format(day=day(identity.not_after_ms))}."
    )
    say()
    say("Next:")
    if _is_of_edge(directory):
        say(f"  1. Say what from above may run within the group:  {directory / 'policy.yaml'}  (now: what you approve)")
        say(f"  2. Start:                                         hanse edge start --directory {directory.parent}")
        return
    say(f"  1. Say where your data is:     {directory / 'site.yaml'}")
    say(f"  2. Say what may run on it:     {directory / 'policy.yaml'}  (now: everything waits for your approval)")
    say(f"  3. Start:                      hanse site start --directory {directory}")


def _is_of_edge(directory: Path) -> bool:
    """Whether this is a group's site in the federation above: a folder `edge` within that of the group's federation."""
    from hanse.edge.start import SITE

    return directory.name == SITE and (directory.parent / "server.yaml").exists()


def pack(directory: Directory = HERE) -> None:
    """Print this site's identity, private keys too, for a secret that machines which come and go read. Keep it secret.

    Of a federation without a server: training jobs on SageMaker become the site with it.
    """
    existing(directory, "membership.json", "site", _JOIN_FIRST)
    from hanse.site.packed import pack as packed

    say(packed(directory))


def start(
    directory: Directory = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More lines in the log.")] = False,
) -> int:
    """Take part until Ctrl-C or SIGTERM. Nothing listens: the site dials out.

    The log goes to standard error: key=value lines, or JSON with HANSE_LOG=json.
    """
    existing(directory, "membership.json", "site", _JOIN_FIRST)
    from hanse.site.start import main

    return main(directory, verbose=verbose)


def status(directory: Directory = HERE, json: Json = False) -> None:
    """What the agent in this folder is doing."""
    found = _ask_owner(directory, "status")
    if json:
        show_json(found)
        return
    if not found["running"]:
        state = "not running; start it with: hanse site start"
    elif found["connected"]:
        state = "connected"
    else:
        state = f"not connected: {found.get('last_error') or 'trying'}"
    facts: dict[str, Any] = {"site": found["site"], "server": found["server"], "state": state}
    if found["running"]:
        facts |= {
            "certificate": f"{found['certificate_days']:.0f} days left",
            "isolation": found["isolation"],
            "data sets": found["datasets"],
        }
    show_facts(facts)
    say()
    show_table(
        found["jobs"],
        {"job": "JOB", "name": "NAME", "person": "PERSON", "decision": "DECISION", "reason": "REASON"},
        empty="No jobs.",
    )


def approve(
    job: Annotated[
        str | None,
        typer.Argument(help="The job, or enough of its beginning or end; without it, what is held is listed."),
    ] = None,
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Let a job run that the policy holds; without JOB, list what is held.

    What is approved is this job with the app of this SHA-256. To let an app run without asking, list it in policy.yaml.
    """
    if job is not None:
        found = _ask_owner(directory, "approve", job=job)
        if json:
            show_json(found)
            return
        say(f"Job {found['job']} of {found['person']} may run here.")
        show_facts(_settings(found, directory))
        _show_reveals(found)
        return
    held = _ask_owner(directory, "pending")["jobs"]
    for each in held:
        code = directory / "jobs" / str(each["job"]) / "bundle"
        if code.is_dir():
            each["code"] = str(code)
    if json:
        show_json({"jobs": held})
    elif not held:
        say("Nothing is held.")
    for each in [] if json else held:
        show_facts(
            {
                "job": each["job"],
                "name": each.get("name"),
                "person": each.get("person"),
                "app": each.get("app"),
                **_settings(each, directory),
                "submitted": when(each.get("submitted_at_ms")),
                "why held": each.get("reason"),
                "code": each.get("code") or f"ask {each.get('person')} for the file with this SHA-256",
            }
        )
        _show_reveals(each)
        say(_ways(str(each["job"]), directory))
        say()


def _ways(job: str, directory: Path) -> str:
    """The two commands between which an owner chooses, as they are typed where the first one was."""
    where = "" if directory == HERE else f" --directory {shlex.quote(str(directory))}"
    return f"→ hanse site approve {job}{where}   or   hanse site refuse {job}{where} --reason '…'"


def _settings(job: dict[str, Any], directory: Path) -> dict[str, str]:
    """What an owner is asked to allow: how training goes; or who plays what."""
    if "roles" not in job:
        quorum = "all that are asked" if job["quorum"] is None else job["quorum"]
        return {"settings": "{strategy}, {rounds} rounds, quorum {quorum}".format_map({**job, "quorum": quorum})}
    return {
        "roles": ", ".join(f"{role}: {site}" for role, site in sorted(job["roles"].items())),
        **({"uses": _used(directory, job["outputs_of"])} if job.get("outputs_of") else {}),
    }


def _show_reveals(job: dict[str, Any]) -> None:
    """What others learn in a job of roles: every line of it, since the owner is asked to allow all of them."""
    if "roles" in job:
        say()
        show_reveals(job["reveals"])
        say()


def _used(directory: Path, earlier: str) -> str:
    """What of an earlier job a job is lent: whose it was, and who played what."""
    from hanse.core.errors import RefusedError
    from hanse.site.roles import kept_for

    try:
        person, roles = kept_for(directory / "outputs" / earlier)
    except RefusedError:
        return f"what this site kept of job {earlier}: nothing is here of it"
    played = ", ".join(f"{role}: {site}" for role, site in sorted(roles.items()))
    return f"what this site kept of job {earlier} of {person} ({played})"


def refuse(
    job: Annotated[str, typer.Argument(help="The job, or enough of its beginning or end.")],
    reason: Annotated[str, typer.Option(help="Told to the person who submitted it.")] = "",
    directory: Directory = HERE,
    json: Json = False,
) -> None:
    """Say no to a job that is held or already runs here."""
    found = _ask_owner(directory, "refuse", job=job, reason=reason)
    show_json(found) if json else say(f"Job {found['job']} may not run here.")


def list_(federation: Federation = FEDERATION, json: Json = False) -> None:
    """Every site of the federation: there, silent (its connection says nothing), away or revoked."""
    sites = ask(federation, "sites")["sites"]
    if json:
        show_json({"sites": sites})
        return
    rows = [site | {"since": day(site["enrolled_at_ms"]), "until": day(site["certificate_until_ms"])} for site in sites]
    show_table(
        rows,
        {"site": "SITE", "state": "STATE", "since": "ENROLLED", "until": "CERTIFICATE UNTIL"},
        empty="No sites yet; invite one with: hanse site invite NAME",
    )


def revoke(
    name: Annotated[str, typer.Argument(help="The site.")], federation: Federation = FEDERATION, json: Json = False
) -> None:
    """Let a site in no more, from this moment. It can come back with a new token only."""
    found = ask(federation, "revoke", kind="site", name=name)
    show_json(found) if json else say(f"Site {name} is revoked.")


def _ask_owner(directory: Path, op: str, **arguments: str) -> dict[str, Any]:
    """Ask the agent in a folder, or, where none runs, do what can be done without."""
    existing(directory, "membership.json", "site", _JOIN_FIRST)
    from hanse.site.owner import ask as ask_site

    return ask_site(directory, op, **arguments)
