"""How a person joins a federation that has no server: with an operator's admission, see `trust.admission`."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from hanse.person.federation import AwsAccess
from hanse.trust.admission import accept
from hanse.trust.certificates import PERSON
from hanse.trust.membership import Membership
from hanse.trust.private_files import write_file


def join_by_hand(directory: Path, admission: Path) -> tuple[Membership, Path]:
    """Take an admission, and write `federation.yaml`. Again, with a newer one, renews.

    Raises:
        ConfigError, TrustError: see `trust.admission.accept`.
    """
    admitted = accept(directory, admission, kind=PERSON, reach=[item.name for item in fields(AwsAccess)])
    path = write_aws_file(directory, admitted.membership.identity.federation, admitted.reach)
    return admitted.membership, path


def write_aws_file(directory: Path, federation: str, reach: Mapping[str, str]) -> Path:
    """`federation.yaml` of a person, where there are queues and a bucket instead of a server."""
    lines = [
        f"# How you reach federation {federation}. Your keys lie beside this file; keep them to yourself.",
        f"federation: {json.dumps(federation)}",
        "identity: .",
        "aws:",
        *(f"  {key}: {json.dumps(value)}" for key, value in reach.items()),
    ]
    path = directory / "federation.yaml"
    write_file(path, ("\n".join(lines) + "\n").encode(), mode=0o644)
    return path
