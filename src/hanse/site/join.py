"""How a site joins a federation: keys and membership, and the two files that its owner edits."""

import json
from collections.abc import Mapping
from pathlib import Path

from hanse.backends.grpc.enrol import enrol
from hanse.site import config, policy
from hanse.site.over_queues import SERVER_RECORD
from hanse.trust.admission import accept
from hanse.trust.audit import AuditLog
from hanse.trust.certificates import SITE
from hanse.trust.joining import Enrol, join
from hanse.trust.membership import Membership
from hanse.trust.private_files import write_file

_SITE = """\
# This machine: where the data are, and what workers may use. Restart the agent after a change.
name: {name}
# server: host:port                 # instead of {address}
# durability: power                 # or process: faster, survives a crash of the agent but not the loss of power
# isolation: process                # process, landlock or user; `hanse doctor` says what this machine can do
# share_dataset_names: false        # whether the server may know the names of the data sets below
# workers:
#   limit: 4                        # jobs that have a worker at a time
#   preload: [sklearn.linear_model] # imported once, so that workers start faster
#   memory_mb: 8192                 # of one worker

# What is where. Apps say a name; what is read, and how, is said here.
# datasets:
#   patients: {{kind: csv, path: patients.csv, target: sick}}
datasets: {{}}
"""

_POLICY = """\
# What may run here; what is not allowed is refused. Takes effect at once, for jobs that come and those that are held.

apps: []                # SHA-256 of apps that may run without asking, or: any
unlisted_apps: hold     # other apps wait for `hanse site approve JOB`; or: refuse
people: any             # or a list of names: whose jobs may run
datasets: any           # or a list of names: which data sets of site.yaml jobs may load

# min_cohort: 3         # the least quorum of a job: updates are combined with those of so many sites
# max_rounds: 100
# strategies: any       # or a list, such as [fedavg, fedprox]
# roles: {guest: {peers: [shop], reveals: [size]}}   # what to play with whom; `hanse explain` prints what is revealed
# secure_aggregation: required
# max_epsilon: {patients: 1.0}
# analytics: {min_group: 10}    # questions for statistics may be asked without approval
# isolation: landlock   # the least isolation of workers
"""


async def join_site(directory: Path, token: str, *, enrol: Enrol = enrol) -> Membership:
    """Join with a site's token. Doing it again is harmless; files that the owner has edited stay.

    Raises:
        ConfigError, ConflictError, TrustError, UnavailableError: see `trust.joining.join`.
    """
    directory = directory.absolute()
    membership = await join(directory, token, kind=SITE, enrol=enrol)
    settle(directory, membership)
    return membership


def join_by_hand(directory: Path, admission: Path) -> Membership:
    """Join with what an operator without a server gave back for a request. Again, with a newer one, renews.

    Raises:
        ConfigError, TrustError: see `trust.admission.accept`.
    """
    admitted = accept(directory, admission, kind=SITE, reach=config._AWS)
    write_file(directory / SERVER_RECORD, admitted.server_record, mode=0o644)
    settle(directory, admitted.membership, admitted.reach)
    return admitted.membership


def settle(directory: Path, membership: Membership, aws: Mapping[str, str] | None = None) -> None:
    """Write the files that the owner edits, unless they are there, and the first line of the audit log.

    Args:
        aws: how to reach the federation's queues, where it has no server.
    """
    text = _SITE.format(name=membership.identity.name, address=membership.address or "the one in the certificate")
    if aws is not None:
        lines = "\n".join(f"  {key}: {json.dumps(value)}" for key, value in aws.items())
        text = text.replace(
            "# durability:", f"aws:                                # queues instead of a server\n{lines}\n# durability:"
        )
    _write_new(directory / config.FILE, text)
    _write_new(directory / policy.FILE, _POLICY)
    with AuditLog(directory / "audit.jsonl", membership.keys.signing) as audit:
        identity = membership.identity
        audit.append(
            actor=f"site/{identity.name}",
            action="site.join",
            subject=identity.federation,
            outcome="done",
            details={"serial": identity.serial},
        )


def _write_new(path: Path, content: str) -> None:
    if not path.exists():
        path.write_text(content)
