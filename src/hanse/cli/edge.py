"""`hanse edge start`."""

from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.options import HERE, Directory, existing


def start(
    directory: Directory = HERE,
    site: Annotated[
        Path | None,
        typer.Option(help="The folder in which the group has joined the federation above; by default edge/."),
    ] = None,
    person: Annotated[
        Path | None,
        typer.Option(help="The folder of the group's person who submits jobs from above; by default admin/."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More lines in the log.")] = False,
) -> int:
    """Be a group's aggregator until Ctrl-C or SIGTERM: a server to its members, and a site of the federation above.

    The folder is that of the group's own federation (hanse federation init). Jobs that were at work are taken up again.
    """
    existing(directory, "server.yaml", "group's own federation", "make one with: hanse federation init NAME")
    from hanse.edge.start import main

    return main(directory, site=site, person=person, verbose=verbose)
