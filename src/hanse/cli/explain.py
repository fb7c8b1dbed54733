"""`hanse explain`: what an app of roles guarantees, and what each role learns about whom. Nothing is run."""

from typing import Annotated

import typer

from hanse.cli.options import Json
from hanse.cli.output import say, show_facts, show_json, show_table
from hanse.core.errors import ConfigError


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

    found = load(app)
    if not isinstance(found, RolePlay):
        raise ConfigError(
            f"{app}: expected an hs.RoleApp, found an hs.App, whose sites answer what a server's strategy asks"
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
    rows = [{"to": each.to, "about": each.about, "what": each.what, "detail": each.detail} for each in protocol.reveals]
    show_table(
        rows, {"to": "LEARNS", "about": "ABOUT", "what": "WHAT", "detail": "THAT IS"}, empty="Nothing is revealed."
    )
