"""`hanse federation init`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.options import Json
from hanse.cli.output import say, show_json
from hanse.core.errors import ConfigError, HanseError

_TAKEN = ("apps", "authority", "edge", "server", "store")


def init(
    name: Annotated[str, typer.Argument(help="The federation's name: a-z, 0-9, '-' and '_'.")],
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Where to make it; by default a folder called NAME.")
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="Invite a site; may be given several times.")] = None,
    person: Annotated[str, typer.Option(help="The first person, an admin.")] = "admin",
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address under which members reach the server; may be given several times."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Address to bind; by default loopback, or all if a --host is given.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="For members' sessions (mutual TLS).")] = 7400,
    enrolment_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="For joining (TLS); by default the next one.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="For /metrics and /healthz on loopback; by default the next.")
    ] = None,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Whether to serve /metrics and /healthz.")] = True,
    hours: Annotated[float, typer.Option(min=0.01, help="How long the join tokens hold.")] = 24.0,
    json: Json = False,
) -> None:
    """Make a federation: its certificate authority, its server, its first person, and a join token for each site."""
    from hanse.server.config import ServerConfig
    from hanse.server.init import init_federation

    hosts = tuple(host or ("127.0.0.1", "localhost"))
    enrolment = enrolment_port or port + 1
    metrics = (http_port or max(port, enrolment) + 1) if http else None
    ports = [each for each in (port, enrolment, metrics) if each is not None]
    if len(set(ports)) != len(ports) or max(ports) > 65535:
        raise ConfigError(f"ports: expected different ones up to 65535, found {', '.join(map(str, ports))}")
    sites = site or []
    if len(set(sites)) != len(sites):
        raise ConfigError(f"site: expected every name once, found {', '.join(sites)}")
    config = ServerConfig(
        federation=name,
        listen=listen or ("0.0.0.0" if host else "127.0.0.1"),
        port=port,
        enrolment_port=enrolment,
        http_port=metrics,
        hosts=hosts,
    )
    if person in _TAKEN:
        raise ConfigError(f"person: {person} is a folder of the server; choose another name")
    place = directory or Path(name)
    is_new = not place.exists()
    try:
        made = init_federation(place, config, person=person, sites=sites, token_hours=hours)
    except HanseError:
        if is_new:
            shutil.rmtree(place, ignore_errors=True)  # so that the next attempt does not meet half a federation
        raise
    yaml = made.person_directory / "federation.yaml"
    if json:
        show_json(
            {
                "federation": name,
                "directory": str(made.directory),
                "federation_file": str(yaml),
                "address": config.address,
                "enrolment_address": config.enrolment_address,
                "tokens": made.tokens,
            }
        )
        return
    say(f"Federation {name} is in {made.directory}. Whoever has that folder is the federation: keep it safe.")
    say()
    say("Next:")
    say("  1. Start the server:")
    say(f"       hanse server start --directory {made.directory}")
    if made.tokens:
        say(f"  2. Give each site its token. It works once, within {hours:g} hours; the site's owner runs:")
        for each, token in made.tokens.items():
            say(f"     {each}:")
            say(f"       hanse site join {token}")
    else:
        say("  2. Invite sites:")
        say(f"       hanse site invite NAME --federation {yaml}")
    say("  3. Each site declares its data in site.yaml, says what may run in policy.yaml, and runs:")
    say("       hanse site start")
    say("  4. Submit an app:")
    say(f"       hanse run app.py --federation {yaml}")
