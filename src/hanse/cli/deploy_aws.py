"""`hanse deploy aws …`: a federation without a server, made, changed, priced and removed."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse.cli.options import Json
from hanse.cli.output import day, note, say, show_facts, show_json, show_table
from hanse.core.errors import ConfigError

FILE = Path("federation.yaml")

Where = Annotated[Path, typer.Argument(help="federation.yaml with a section `aws`, or its folder.")]
Profile = Annotated[str, typer.Option("--profile", help="A profile of this machine's AWS settings.")]
Endpoint = Annotated[
    str, typer.Option("--endpoint-url", envvar="AWS_ENDPOINT_URL", help="An emulator's URL instead of AWS's.")
]
Lock = Annotated[
    Path | None, typer.Option(help="A requirements file with hashes; by default the versions installed here.")
]


def init(
    path: Annotated[Path, typer.Argument(help="Where to write federation.yaml; its folder becomes the federation's.")],
    region: Annotated[str, typer.Option(help="The AWS region of everything.")],
    site: Annotated[list[str], typer.Option(help="A site; may be given several times.")],
    name: Annotated[str, typer.Option(help="The federation's name; by default the folder's.")] = "",
    person: Annotated[str, typer.Option(help="The first person, an admin.")] = "admin",
    json: Json = False,
) -> None:
    """Make a federation that needs no server: its authority, its keys, its first person, and what to deploy.

    Nothing is sent anywhere. Edit the file, then run: hanse deploy aws deploy
    """
    from hanse.deploy.aws import deploying
    from hanse.deploy.aws.account import check_region
    from hanse.deploy.aws.settings import written

    path = _file(path)
    called = name or path.absolute().parent.name
    text = written(called, region, site)
    deployment = read_text(text, path)
    if importlib.util.find_spec("boto3") is not None:
        check_region(deployment.region)
    admin = deploying.init(path, deployment, text, person=person)
    if json:
        show_json({"federation": called, "file": str(path), "person_directory": str(admin)})
        return
    say(f"Federation {called} is in {path.absolute().parent}. Whoever has that folder is the federation: keep it safe.")
    say()
    say("Next:")
    say(f"  1. Look at {path}; a site more is a line more.")
    say(f"  2. hanse deploy aws deploy {path}")


def deploy(
    path: Where = FILE,
    profile: Profile = "",
    endpoint_url: Endpoint = "",
    lock: Lock = None,
    keys_only: Annotated[
        bool, typer.Option("--keys-only", help="The stack is made by Terraform, CDK or the console: write keys only.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring about what federation.yaml says. Again after every change of it, and after an update of Hanse.

    With --endpoint-url an emulator gets it all, with the libraries that are installed here.
    """
    from hanse.deploy.aws import deploying
    from hanse.deploy.aws.package import package as make
    from hanse.deploy.aws.package import package_here

    deployment, account, folder = _opened(path, profile, endpoint_url)
    account.id()
    zipped = None
    if keys_only:
        done = deploying.hand_over(account, deployment, folder, note)
    else:
        if account.is_emulated:
            zipped = package_here()
        else:
            note(f"package for Python {deployment.python} on {deployment.architecture} …")
            zipped = make(deployment.python, deployment.architecture, lock=lock)
        done = deploying.deploy(account, deployment, folder, zipped, note)
    people = sorted(str(each.parent / "federation.yaml") for each in folder.glob("*/federation.yaml"))
    if json:
        show_json(
            {
                "account": done.account,
                "region": done.region,
                "bucket": done.bucket,
                "table": done.table,
                "changes": [_shown(change) for change in done.changes],
                "package": None
                if zipped is None
                else {"key": zipped.key, "unzipped_bytes": zipped.unzipped, "runs_on": zipped.runs_on},
                "federation_files": people,
                "outputs": dict(done.outputs),
            }
        )
        return
    say(f"Federation {deployment.federation} is in account {done.account}, {done.region}.")
    packaged = {} if zipped is None else {"changes": len(done.changes), "package": zipped.key}
    show_facts({"bucket": done.bucket, "table": done.table, **packaged})
    say()
    say("Next:")
    say("  1. Each site makes a request:  hanse site request FEDERATION NAME")
    say(f"     you answer it:              hanse deploy aws admit NAME-request.json {path}")
    say("     and it joins and starts:    hanse site join NAME-admission.json, hanse site start")
    say(f"  2. Submit an app:              hanse run app.py --federation {people[0] if people else 'federation.yaml'}")


def diff(path: Where = FILE, profile: Profile = "", endpoint_url: Endpoint = "", json: Json = False) -> int:
    """What deploying would change, apart from code. Exit code 1 if something would be made anew, losing content."""
    from hanse.deploy.aws import deploying

    deployment, account, _ = _opened(path, profile, endpoint_url)
    found = deploying.planned(account, deployment)
    rows = [_shown(change) for change in found]
    if json:
        show_json({"changes": rows})
    else:
        show_table(
            rows,
            {"action": "ACTION", "name": "RESOURCE", "kind": "KIND", "replaced": "MADE ANEW"},
            empty="Nothing would change.",
        )
    return int(any(change.replaced for change in found))


def admit(
    request: Annotated[Path, typer.Argument(help="Made by: hanse site request, or hanse person request")],
    path: Where = FILE,
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How long the certificate holds.")] = 90.0,
    output: Annotated[Path | None, typer.Option(help="The admission; by default NAME-admission.json.")] = None,
    profile: Profile = "",
    endpoint_url: Endpoint = "",
    json: Json = False,
) -> None:
    """Let a site or a person in: certify the keys, enrol, and write what they need. Nothing in it is secret."""
    from hanse.core.codec import canonical_json
    from hanse.deploy.aws import enrolling
    from hanse.trust.admission import fingerprint_of
    from hanse.trust.certificates import fingerprint

    deployment, account, folder = _opened(path, profile, endpoint_url)
    try:
        content = request.read_bytes()
    except OSError as error:
        raise ConfigError(f"{request}: {error.strerror}; a site makes one with: hanse site request") from None
    name, body = enrolling.admit(account, deployment, folder, content, days=days)
    asked = fingerprint_of(content)
    target = output or Path(f"{name}-admission.json")
    target.write_bytes(canonical_json(body))
    shown = fingerprint(body["authority"].encode()).hex()
    if json:
        show_json({"name": name, "admission": str(target), "authority_sha256": shown, "request_sha256": asked})
        return
    group = "person" if "bucket" in body["aws"] else "site"
    note(f"Before you hand it out, compare the request's fingerprint with the one that {name} tells you: {asked}")
    note(f"Give it to {name}, who runs: hanse {group} join {target.name}, and compares the authority's fingerprint:")
    note(shown)
    say(str(target))


def revoke(
    kind: Annotated[str, typer.Argument(help="site or person.")],
    name: Annotated[str, typer.Argument(help="Whom to let in no more.")],
    path: Where = FILE,
    profile: Profile = "",
    endpoint_url: Endpoint = "",
    json: Json = False,
) -> None:
    """Let a member in no more. Functions know it within a minute; removing a site's line is up to you."""
    from hanse.deploy.aws import enrolling

    if kind not in ("site", "person"):
        raise ConfigError(f"revoke: expected site or person, found {kind[:20]!r}")
    deployment, account, folder = _opened(path, profile, endpoint_url)
    enrolling.revoke(account, deployment, folder, kind, name)
    show_json({"kind": kind, "name": name, "revoked": True}) if json else say(f"{kind} {name} is revoked.")


def members(path: Where = FILE, profile: Profile = "", endpoint_url: Endpoint = "", json: Json = False) -> None:
    """Every site and person: who is enrolled, until when their certificates hold, and who is not admitted yet.

    Nobody renews a certificate where there is no server: admit the same request again before the day that is named.
    """
    from hanse.deploy.aws import enrolling

    deployment, account, folder = _opened(path, profile, endpoint_url)
    found = enrolling.members(account, deployment, folder)
    if json:
        show_json({"members": found})
        return
    show_table(
        [each | {"until": day(each["until_ms"]), "roles": ", ".join(each["roles"])} for each in found],
        {"kind": "KIND", "name": "NAME", "state": "STATE", "roles": "ROLES", "until": "CERTIFICATE UNTIL"},
        empty="Nobody.",
    )


def package(
    path: Where = FILE,
    output: Annotated[Path, typer.Option(help="A folder for the zip and the templates.")] = Path("deploy-aws"),
    lock: Lock = None,
    json: Json = False,
) -> None:
    """Write the functions' zip and every template, for one click in the console, for CDK, or for a look.

    Upload the zip to a bucket of the same region; then deploy server.template.json with CodeBucket and CodeKey, and
    give each site its site-NAME.template.json.
    """
    from hanse.deploy.aws.package import package as make
    from hanse.deploy.aws.settings import load
    from hanse.deploy.aws.stacks import code_stack, server_stack, site_stack
    from hanse.deploy.aws.template import render

    deployment = load(path)
    zipped = make(deployment.python, deployment.architecture, lock=lock)
    output.mkdir(parents=True, exist_ok=True)
    templates = {"server": server_stack(deployment), "code": code_stack(deployment)}
    templates |= {f"site-{s.name}": site_stack(deployment, s) for s in deployment.sites if s.access == "role"}
    for name, template in templates.items():
        (output / f"{name}.template.json").write_text(render(template))
    target = output / f"hanse-{zipped.digest[:32]}.zip"
    target.write_bytes(zipped.content)
    facts = {
        "zip": str(target),
        "sha256": zipped.digest,
        "runs_on": zipped.runs_on,
        "zipped_mib": round(len(zipped.content) / 2**20, 1),
        "unzipped_mib": round(zipped.unzipped / 2**20, 1),
    }
    names = [f"{name}.template.json" for name in templates]
    if json:
        show_json({**facts, "templates": names, "libraries": dict(zipped.libraries)})
        return
    show_facts({**facts, "templates": ", ".join(names)})


def cost(
    path: Where = FILE,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of a job.")] = 100,
    round_s: Annotated[float, typer.Option(min=0.1, help="How long a round takes; queues are polled.")] = 60,
    model_mb: Annotated[float, typer.Option(min=0.001, help="The model's size in 10^6 bytes.")] = 1.0,
    json: Json = False,
) -> None:
    """Calls and dollars of one round, by list prices of the date shown; and what standing still costs."""
    from hanse.deploy.aws.cost import estimate
    from hanse.deploy.aws.settings import load

    deployment = load(path)
    found = estimate(deployment, rounds=rounds, round_s=round_s, model_bytes=round(model_mb * 1e6))
    if json:
        show_json(found.to_json())
        return
    show_table(
        [{"what": line.what, "calls": f"{line.count:,.1f}", "dollars": f"{line.dollars:.8f}"} for line in found.lines],
        {"what": "A ROUND", "calls": "NUMBER", "dollars": "DOLLARS"},
        empty="",
    )
    say()
    show_facts(
        {
            "calls per site and round": f"{found.calls_per_site_round:.1f}",
            "dollars a round": f"{found.round_dollars:.6f}",
            "dollars per site and round": f"{found.round_dollars / len(deployment.sites):.6f}",
            f"dollars for {rounds} rounds": f"{found.round_dollars * rounds:.4f}",
            "dollars a month standing still": f"{found.month_dollars:.2f}",
        }
    )
    note(f"Prices of {found.region} as known on {found.date}, without free tiers; compare: {found.source}")


def destroy(
    path: Where = FILE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    profile: Profile = "",
    endpoint_url: Endpoint = "",
    json: Json = False,
) -> None:
    """Remove everything of the federation from AWS: queues, records, models. The folder with its keys stays."""
    from hanse.deploy.aws import deploying

    deployment, account, _ = _opened(path, profile, endpoint_url)
    if not yes:
        typed = typer.prompt(f"This removes every job and model. Type the federation's name ({deployment.federation})")
        if typed != deployment.federation:
            raise ConfigError(f"destroy: expected {deployment.federation}, found {typed[:60]!r}; nothing was removed")
    stays = deploying.destroy(account, deployment, note)
    if json:
        show_json({"federation": deployment.federation, "stays": stays})
        return
    but = f" but {', and '.join(stays)}" if stays else ""
    say(f"Nothing is left of {deployment.federation}{but}.")


def read_text(text: str, path: Path) -> Any:
    """A deployment from the text of a file that is about to be written."""
    from hanse.core.yaml_files import parse_yaml
    from hanse.deploy.aws.settings import read

    return read(parse_yaml(text, str(path)), str(path))


def _opened(path: Path, profile: str, endpoint: str) -> Any:
    """The deployment, the account, and the federation's folder."""
    import dataclasses

    from hanse.deploy.aws.account import Account
    from hanse.deploy.aws.settings import load

    path = _file(path)
    deployment = load(path)
    if endpoint:
        deployment = dataclasses.replace(deployment, is_emulated=True)
    return deployment, Account(deployment.region, profile, endpoint), path.parent


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() or path.suffix not in (".yaml", ".yml") else path


def _shown(change: Any) -> dict[str, Any]:
    return {
        "action": change.action.lower(),
        "name": change.name,
        "kind": change.kind.removeprefix("AWS::"),
        "replaced": "yes" if change.replaced else "",
    }
