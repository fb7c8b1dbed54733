"""`hanse person …`: who may submit jobs and who may run the federation."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from hanse.cli.options import FEDERATION, HERE, Directory, Federation, Json, ask, token_from
from hanse.cli.output import day, note, say, show_json, show_table


def add(
    name: Annotated[str, typer.Argument(help="The person's name: a-z, 0-9, '-' and '_'.")],
    role: Annotated[
        list[str] | None, typer.Option(help="researcher (submits jobs) or admin (also invites and revokes).")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="How long the token holds.")] = 24.0,
    federation: Federation = FEDERATION,
    json: Json = False,
) -> None:
    """Make a join token for a new person. It works once. Only an admin can."""
    answer = ask(federation, "invite", kind="person", name=name, roles=role or ["researcher"], hours=hours)
    if json:
        show_json({"person": name, "token": answer["token"]})
        return
    note(f"Give this to {name}, who runs: hanse person join TOKEN")
    say(answer["token"])


def request(
    federation: Annotated[str, typer.Argument(help="The federation's name.")],
    name: Annotated[str, typer.Argument(help="Your name in it.")],
    directory: Directory = HERE,
) -> None:
    """Make your keys, and a request for a federation that has no server. Nothing in the request is secret."""
    from hanse.trust.admission import request as make
    from hanse.trust.certificates import PERSON

    path = make(directory, federation, name, kind=PERSON)
    note("Hand this file to the federation's operator, who gives back an admission. Then: hanse person join ADMISSION")
    say(str(path))


def join(
    token: Annotated[str, typer.Argument(help="The join token, or the operator's admission; - reads a token.")],
    directory: Directory = HERE,
) -> None:
    """Join a federation as a person. Keys are made in this folder and never leave it; federation.yaml is written."""
    if token.endswith(".json"):
        from hanse.person.by_hand import join_by_hand
        from hanse.trust.certificates import fingerprint

        membership, path = join_by_hand(directory, Path(token))
        say("Compare the authority's fingerprint with the one that the operator tells you:")
        say(f"  {fingerprint(membership.authority_pem).hex()}")
    else:
        membership, path = _join(directory, token)
    identity = membership.identity
    say(
        f"{identity.name} belongs to federation {identity.federation}, with a certificate until "
        f"{day(identity.not_after_ms)}."
    )
    say(f"Next: hanse run app.py --federation {path}")


def _join(directory: Path, token: str) -> tuple[Any, Path]:
    from hanse.backends.grpc.enrol import enrol
    from hanse.server.init import write_federation_file
    from hanse.trust.certificates import PERSON
    from hanse.trust.joining import join as join_member

    membership = asyncio.run(join_member(directory, token_from(token), kind=PERSON, enrol=enrol))
    return membership, write_federation_file(directory, membership.identity.federation, membership.address)


def list_(federation: Federation = FEDERATION, json: Json = False) -> None:
    """Every person of the federation, with roles. Only an admin can."""
    people = ask(federation, "people")["people"]
    if json:
        show_json({"people": people})
        return
    show_table(
        [person | {"until": day(person["certificate_until_ms"])} for person in people],
        {"person": "PERSON", "roles": "ROLES", "state": "STATE", "until": "CERTIFICATE UNTIL"},
        empty="Nobody.",
    )


def revoke(
    name: Annotated[str, typer.Argument(help="The person.")], federation: Federation = FEDERATION, json: Json = False
) -> None:
    """Let a person in no more, from this moment. Only an admin can."""
    found = ask(federation, "revoke", kind="person", name=name)
    show_json(found) if json else say(f"Person {name} is revoked.")
