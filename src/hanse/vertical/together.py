"""All parties in this process: `hs.vertical.simulate`, and what it gives back, which no single party ever holds.

The programs are those of a job (`Model.play`), over local channels, with the cryptography as between organisations.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.channels.protocol import Reveal
from hanse.core.codec import encode
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER
from hanse.vertical.model import Model
from hanse.vertical.parties import ARBITER, GUEST, IfOffline, host_roles
from hanse.vertical.scores import Scoring

TIMEOUT_S = 600.0
"""Of a wait, where all parties share this process's processors."""
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Together:
    """A trained model with all its parties' parts.

    Attributes:
        model: what was trained.
        parts: role → that party's part.
        response: the guest's label as it was trained on, which turns scores into predictions.
        metrics: of the rows that were judged (`Model.test`), computed by the guest.
        scores: of these rows, float64 `(num_rows, num_outputs)`.
        rows: places of these rows in the guest's table.
    """

    model: Model
    parts: Mapping[str, Any]
    response: Any
    metrics: Mapping[str, float]
    scores: Numbers
    rows: npt.NDArray[np.int64]

    @property
    def reveals(self) -> tuple[Reveal, ...]:
        """What all that ran told whom; there is no server here."""
        declared = self.model.whole([role for role in self.parts if role != GUEST])
        return tuple(each for each in declared.reveals if each.to != SERVER)

    def save(self, folder: str | Path) -> None:
        """Write each party's part to `folder`/ROLE.safetensors. Between organisations, each keeps its own file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for role, part in self.parts.items():
            arrays = self.model.encoded(part, self.response if role == GUEST else None)
            (folder / f"{role}.safetensors").write_bytes(encode(arrays))

    def predict(
        self, guest: Any, hosts: Any, *, if_offline: IfOffline = "refuse"
    ) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Score further rows together.

        Args:
            guest, hosts: tables as for `simulate`; a label is not looked at. A host that is None is offline.
            if_offline: see `hs.vertical.Scoring`.

        Returns:
            Places of the common rows in the guest's table, and their predictions.
        """
        scoring = Scoring(self.model, trained_by="here", if_offline=if_offline)
        tables = dict(zip(self.parts, [guest, *_listed(hosts)], strict=True))
        there = [role for role, table in tables.items() if table is not None]
        absent = frozenset(tables) - set(there)
        names = [role for role in tables if role != GUEST]

        def program(role: str) -> Callable[[Party], Awaitable[Any]]:
            response = self.response if role == GUEST else None
            return lambda party: scoring.play(party, self.parts[role], response, tables[role], names)

        found = asyncio.run(
            run_local(scoring.whole(names), {role: program(role) for role in there}, timeout_s=TIMEOUT_S, absent=absent)
        )
        return found[GUEST].rows, found[GUEST].predictions


def simulate(model: Model, guest: Any, hosts: Any, *, start: Mapping[str, Any] | None = None) -> Any:
    """Train with all parties in this process, over local channels, with the cryptography as between organisations.

    Args:
        model: what to train.
        guest: the table of the party with the label; see `hanse.vertical.tables` for what is taken.
        hosts: the table of one host, or a list of several.
        start: `weights()` of an earlier result, where the model has some: training goes on from there.

    Returns:
        The model's own kind of `Together`.

    Raises:
        ConfigError: tables that do not fit the model or each other, no common rows, a training that diverged.
    """
    names = host_roles(len(_listed(hosts)))
    tables = {
        role: model.table(source, role) for role, source in zip((GUEST, *names), [guest, *_listed(hosts)], strict=True)
    }
    rows = {table.num_rows for table in tables.values()}
    if model.key is None and len(rows) != 1:
        raise ConfigError(f"tables: expected one number of rows without a key, found {sorted(rows)}")
    return asyncio.run(_simulate(model, tables, names, start or {}))


async def _simulate(model: Model, tables: Mapping[str, Any], hosts: Sequence[str], start: Mapping[str, Any]) -> Any:
    protocol = model.whole(hosts)
    programs: dict[str, Callable[[Party], Awaitable[Any]]] = {
        role: partial(model.play, source=table, hosts=hosts, start=start.get(role)) for role, table in tables.items()
    }
    if ARBITER in protocol.roles:
        programs[ARBITER] = model.deal
    played = await run_local(protocol, programs, timeout_s=TIMEOUT_S)
    return model.result({role: played[role] for role in tables})


def _listed(hosts: Any) -> list[Any]:
    return list(hosts) if isinstance(hosts, list | tuple) else [hosts]
