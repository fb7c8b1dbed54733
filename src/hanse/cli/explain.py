"""`hanse explain`: what an app of roles or of groups guarantees, and who learns what about whom. Nothing is run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hanse.cli.options import Json
from hanse.cli.output import say, show_facts, show_json, show_reveals
from hanse.core.errors import ConfigError

if TYPE_CHECKING:
    from hanse.strategies.groups import Groups


def explain(
    app: Annotated[str, typer.Argument(help="The file with the app, app.py or app.py:NAME, or a module.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=SITE as for hanse run, where what is revealed depends on how many sites there are."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what an app's protocols guarantee, and what they reveal, all of them together.

    The words under WHAT are those that a site's policy lists under roles.ROLE.reveals.
    """
    from hanse.channels.app import RolePlay
    from hanse.channels.spec import assigned
    from hanse.cli.run import load, roles_of
    from hanse.clients.app import App

    found = load(app)
    if isinstance(found, App) and found.groups is not None:
        _explain_groups(found.groups, as_json=json)
        return
    if not isinstance(found, RolePlay):
        raise ConfigError(
            f"{app}: expected an hs.RoleApp or an hs.App with groups, found an hs.App, "
            "whose sites answer what a server's strategy asks"
        )
    protocol = found.cast(assigned(roles_of(role) or {})).protocol
    if json:
        show_json(protocol.describe())
        return
    guarantee = protocol.guarantee
    proven = guarantee.adversary != "none"
    strength = f"{guarantee.computational_bits} bits, statistical {guarantee.statistical_bits}"
    show_facts(
        {
            "protocol": protocol.name,
            "roles": ", ".join(protocol.roles),
            "guarantee": f"{guarantee.adversary}, at most {guarantee.corrupted} corrupted" if proven else "none proven",
            **({"strength": strength} if proven else {}),
            "assumes": "; ".join(guarantee.assumptions),
        }
    )
    say()
    show_reveals([asdict(each) for each in protocol.reveals])


def _explain_groups(groups: "Groups", *, as_json: bool) -> None:
    from hanse.strategies.groups import REVEALS

    reveals = [asdict(each) for each in REVEALS]
    if as_json:
        show_json({"groups": groups.to_json(), "reveals": reveals})
        return
    show_facts(
        {
            "groups": f"{groups.rounds} rounds of each for one of the server's, by {type(groups.strategy).__name__}",
            "guarantee": "none proven",
            "assumes": "members trust their edge as they would a server; it tells the one above nothing else",
        }
    )
    say()
    show_reveals(reveals)
