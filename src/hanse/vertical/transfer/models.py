"""`hs.vertical.TransferLearning`: a company with labels teaches another, which shares few customers with it, as an app.

    app = hs.vertical.TransferLearning(dataset="customers", key="id", label="y")
    hs.run(app, roles={"guest": "bank", "host": "shop", "arbiter": "notary"})

First `hanse.vertical.psi.chase_miao` finds the common rows, then `hanse.vertical.transfer.dealer` trains over them and
over all other rows of the guest. In the end the host has a model of its own for all its rows: `predict`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hanse.channels.app import RoleApp
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.core.errors import CodecError
from hanse.vertical import meeting
from hanse.vertical.binned import positives_of
from hanse.vertical.correlated import numbers
from hanse.vertical.glm.columns import INTERCEPT, Columns, prepare
from hanse.vertical.intersection import identifiers
from hanse.vertical.psi import chase_miao
from hanse.vertical.transfer import dealer
from hanse.vertical.transfer.dealer import Transferred
from hanse.vertical.transfer.mathematics import Settings, Table

PROTOCOL = Protocol.joined("psi+transfer", {"psi": chase_miao.PROTOCOL, "transfer": dealer.PROTOCOL})
_TELLS = {"common": "how many identifiers both hold", "rows": "how many rows this side has"}
_SETTINGS = frozenset(each.name for each in fields(Settings))


class TransferLearning(RoleApp):
    """Federated transfer learning between a guest with a label and a host without one.

    Returns of guest and host: metrics `common` and `rows`; arrays `weights`, `means`, `deviations`, `clip` and
    `translator`. The host's also `scores`, float64, one for each of its own rows, the higher the likelier positive.

    Args:
        dataset: its name, the same at guest and host; a mapping of columns, such as a CSV file without a target.
        key: the column that identifies a person; every other column must be numbers that vary, without missing ones.
        label: the guest's column of two values; the larger is called positive.
        clip: scaled columns are held within ±clip.
        include: see `RoleApp`.
        options: those of `transfer.mathematics.Settings` (`dimensions`, `iterations`, `learning_rate`, `alignment`,
            `own_loss`, `l2`, `seed`), and as for `RoleApp`: `timeout_s`, `deadline_s`, `away_s`, `retries`, `threads`.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(
        self,
        *,
        dataset: str,
        key: str,
        label: str,
        clip: float = 4.0,
        include: Sequence[str | Path] = (),
        **options: Any,
    ) -> None:
        settings = Settings(**{name: value for name, value in options.items() if name in _SETTINGS})
        rest = {name: value for name, value in options.items() if name == "seed" or name not in _SETTINGS}
        super().__init__(PROTOCOL, tells=_TELLS, include=include, **rest)

        async def guest(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            signs = np.where(positives_of(table, dataset, label), 1.0, -1.0)
            own = {name: column for name, column in table.items() if name != label}
            columns = prepare(numbers(own, dataset, key), intercept=True, clip=clip)
            places = await chase_miao.guest(party.part("psi"), identifiers(table, dataset, key))
            found = await dealer.guest(party.part("transfer"), columns.values, signs, meeting.some(places), settings)
            return _arrays(columns, found), {"common": len(places), "rows": len(signs)}

        async def host(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            columns = prepare(numbers(table, dataset, key, not_here=label), intercept=True, clip=clip)
            places = await chase_miao.host(party.part("psi"), identifiers(table, dataset, key))
            found = await dealer.host(party.part("transfer"), columns.values[meeting.some(places)], settings)
            scores = np.tanh(columns.values @ found.weights) @ found.translator
            told = {"common": len(places), "rows": len(columns.values)}
            return _arrays(columns, found) | {"scores": scores}, told

        async def arbiter(party: Party, site: Any) -> None:
            await dealer.arbiter(party.part("transfer"))

        for role, program in (("guest", guest), ("host", host), ("arbiter", arbiter)):
            self.role(role)(program)


def predict(arrays: Mapping[str, Array], table: Table) -> Table:
    """The chance of the positive label for further rows of the host, alone, from what its role returned.

    Args:
        arrays: of the role `host`.
        table: its columns in the order of training, without key, float64 `(n, num_columns)`.

    Returns:
        float64 `(n,)`: the logistic function of the scores. The loss is a polynomial: take it for an order of the rows
        before taking it for a chance.

    Raises:
        CodecError: arrays of something else. ConfigError: another number of columns, or values that are not finite.
    """
    wanted = ("weights", "means", "deviations", "clip", "translator")
    found = [np.asarray(arrays.get(name, np.empty(0))) for name in wanted]
    weights, means, deviations, clip, phi = found
    fits = weights.ndim == 2 and means.shape == deviations.shape == (len(weights),) and phi.shape == weights.shape[1:]
    if (
        not fits
        or clip.shape != (1,)
        or not all(each.dtype == np.float64 and np.isfinite(each).all() for each in found)
    ):
        raise CodecError(f"model: expected the finite arrays {', '.join(wanted)} of a transfer")
    names = (INTERCEPT, *(f"x{at}" for at in range(len(means) - 1)))
    columns = Columns(np.empty((0, len(means))), names, means, deviations, float(clip[0]))
    scores = np.tanh(columns.apply(np.asarray(table, np.float64)) @ weights) @ phi
    return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)))


def _arrays(columns: Columns, found: Transferred) -> dict[str, Array]:
    return {
        "weights": found.weights,
        "means": columns.means,
        "deviations": columns.deviations,
        "clip": np.array([columns.clip]),
        "translator": found.translator,
    }
