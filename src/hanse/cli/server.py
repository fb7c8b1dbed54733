"""`hanse server start`."""

from typing import Annotated

import typer

from hanse.cli.options import HERE, Directory, existing


def start(
    directory: Directory = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More lines in the log.")] = False,
) -> None:
    """Serve the federation in a folder until Ctrl-C or SIGTERM. Jobs that were at work are taken up again.

    The log goes to standard error: key=value lines, or JSON with HANSE_LOG=json.
    """
    existing(directory, "server.yaml", "federation's server", "make one with: hanse federation init NAME")
    from hanse.server.start import main

    main(directory, verbose=verbose)
