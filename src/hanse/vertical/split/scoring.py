"""Joint scoring with a split network: the guest learns the outputs of rows that all parties hold.

What a host tells of a row is what it told in training: its embedding, clipped, with noise, compressed. Where it does
neither, joint scores are offline scores but for the order of additions.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.core.errors import ConfigError, RefusedError, UnavailableError
from hanse.vertical.glm.columns import Columns
from hanse.vertical.split.codecs import codec_of
from hanse.vertical.split.guest import check_outputs, hear
from hanse.vertical.split.host import Table, private_random, tell
from hanse.vertical.split.networks import clipped, imported
from hanse.vertical.split.settings import Settings

MAX_ROWS = 1 << 24
BLOCK_ROWS = 4096
"""Rows that are computed and sent at a time."""


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One party's part of a split network. It stays there.

    Attributes:
        role: whose it is.
        columns: how its columns are scaled; `columns.values` may be empty.
        bottom: its network over them.
        top: the guest's network over all embeddings; None at hosts.
        defaults: at the guest, host's role → the embedding that is taken for a host that is away.
    """

    role: str
    columns: Columns
    bottom: Any
    top: Any = None
    defaults: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def num_hosts(self) -> int:
        """How many there were in the training, at the guest; 0 at hosts, which do not know."""
        return len(self.defaults)

    def embedding(self, values: Table) -> Any:
        """Its network's output for rows of its columns, a float32 tensor `(n, width)`."""
        torch = imported()
        self.bottom.eval()
        with torch.no_grad():
            return self.bottom(torch.from_numpy(self.columns.apply(values).astype(np.float32)))


async def guest(
    party: Party,
    part: SplitPart,
    values: Table,
    rows: npt.NDArray[np.int64],
    settings: Settings,
    *,
    refuse_offline: bool = True,
) -> Table:
    """Score rows.

    Args:
        party: in the role `guest` of `protocol.scoring`.
        part: the guest's.
        values: its columns of these rows, `(n, num_columns)`.
        rows: their places in the common order, `(n,)`.
        settings: of the training.
        refuse_offline: whether a host that cannot be reached means no scores; otherwise its mean embedding is taken.

    Returns:
        Outputs of the top network, float64 `(n, num_outputs)`.

    Raises:
        ConfigError: rows that do not fit. RefusedError: embeddings that do not fit. UnavailableError: a host is silent
        or gone, and `refuse_offline`.
    """
    if rows.shape != (len(values),) or not 1 <= len(rows) <= MAX_ROWS:
        raise ConfigError(f"scoring: expected one place for each of 1 to {MAX_ROWS} rows, found {rows.shape}")
    torch, codec, hosts = imported(), codec_of(settings), party.protocol.roles[1:]
    away = set()
    for role in hosts:
        try:
            await party.send(role, "rows", rows)
        except UnavailableError:
            if refuse_offline:
                raise
            away.add(role)
    outputs = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS]
        parts = [part.embedding(block)]
        for role in hosts:
            default = part.defaults[role]
            if role not in away:
                try:
                    embedding, _ = await hear(party, role, codec, len(block), len(default))
                    parts.append(torch.from_numpy(embedding))
                    continue
                except UnavailableError:
                    if refuse_offline:
                        raise
                    away.add(role)
            parts.append(torch.from_numpy(default).expand(len(block), -1))
        part.top.eval()
        with torch.no_grad():
            found = part.top(torch.cat(parts, dim=1))
        check_outputs(found, len(block), found.shape[-1])
        outputs.append(found.numpy().astype(np.float64))
    return np.concatenate(outputs)


async def host(
    party: Party, part: SplitPart, values: Table, settings: Settings, *, max_rows: int | None = None
) -> None:
    """Answer one question of the guest.

    Args:
        party: in a host's role.
        part: the host's.
        values: its columns, `(num_rows, num_columns)`, in the common order.
        settings: of the training.
        max_rows: how many rows the guest may ask for.

    Raises:
        RefusedError: more rows than that, or rows that are not there.
    """
    rows, most = await party.recv("guest", "rows"), MAX_ROWS if max_rows is None else max_rows
    if not 1 <= len(rows) <= most:
        raise RefusedError(f"guest: expected to be asked for 1 to {most} rows, found {len(rows)}")
    if rows.min() < 0 or rows.max() >= len(values):
        raise RefusedError(f"guest: expected rows from 0 to {len(values) - 1}, found others")
    codec, random = codec_of(settings), private_random()
    for start in range(0, len(rows), BLOCK_ROWS):
        embedding = clipped(part.embedding(values[rows[start : start + BLOCK_ROWS]]), settings.clip_embeddings)
        await tell(party, codec, embedding.numpy(), settings, random)
