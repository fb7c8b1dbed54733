"""The app of a job at a site: fetched, checked against what was signed, unpacked. Nothing of it is run here."""

import asyncio
import shutil
from pathlib import Path

from hanse.core.errors import RefusedError
from hanse.site.proposals import Proposal
from hanse.site.transfers import Transfers
from hanse.trust.bundle import read_bundle, unpack_bundle


async def fetch_app(proposal: Proposal, transfers: Transfers, directory: Path) -> None:
    """Download an app, check it, and unpack it into `directory`/bundle.

    Raises:
        RefusedError: it is not what was signed. PolicyError, NotFoundError: the server does not hand it out.
    """
    manifest = proposal.manifest
    await transfers.download(proposal.scope, manifest)
    content = bytes(transfers.blobs.read(proposal.scope, manifest.id, 0, manifest.size))
    await asyncio.to_thread(_unpack, content, proposal, directory)


def _unpack(content: bytes, proposal: Proposal, directory: Path) -> None:
    """Write the checked bundle into `bundle`; its own manifest, which the person signed, says what the app is."""
    bundle = read_bundle(content, expected_id=proposal.app)
    entry = "/".join(bundle.manifest.module.split(".")) + ".py"
    if (proposal.entry, proposal.object) != (entry, bundle.manifest.object):
        raise RefusedError(
            f"expected {entry}:{bundle.manifest.object}, which the bundle was signed for, "
            f"found {proposal.entry[:80]}:{proposal.object[:80]}"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(directory / "bundle", ignore_errors=True)
    unpack_bundle(bundle, directory / "bundle")
