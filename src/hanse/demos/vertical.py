"""The same patients, other columns: scikit-learn's breast-cancer set over a clinic, a laboratory and an imaging centre.

Wolberg, Mangasarian, Street, Street, "Breast Cancer Wisconsin (Diagnostic)", UCI Machine Learning Repository, 1993: 569
biopsies, 30 measurements. The clinic (guest) knows the diagnosis and how cells look; the laboratory knows their size,
the imaging centre their outline. Each has never seen one patient in twenty, not the same ones, and names patients in
an order of its own; so they meet first. A notary deals the correlated randomness and holds no data. The organisations
are invented, the patients are not.

**The comparison** is on the common patients that the model's `test` holds out, which nobody trains on: the clinic
alone (its own columns), joint (what the job told) and pooled (all columns in one place), the last with the same
training in the clear. Nothing of the comparison is known to the federation: the demo made the tables, and computes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.core.codec import decode
from hanse.core.errors import MissingExtraError
from hanse.core.seeds import generator, key_of
from hanse.vertical import meeting
from hanse.vertical.glm import plaintext
from hanse.vertical.glm.models import LinearModel, measured
from hanse.vertical.glm.saved import part_in
from hanse.vertical.tables import Table, read_table

DATASET = "patients"
ROLES = {"guest": "clinic", "host-1": "laboratory", "host-2": "imaging", "arbiter": "notary"}
KNOWS = {
    "clinic": ("texture", "smoothness", "symmetry", "fractal dimension"),
    "laboratory": ("radius", "perimeter", "area"),
    "imaging": ("compactness", "concavity", "concave points"),
}
"""Each of these as mean, error and worst of a patient's cells."""
UNKNOWN = 0.05
"""Share of the patients that an organisation has never seen."""
KEY, LABEL = "patient", "malignant"

Tables = Mapping[str, Mapping[str, Array]]


def tables(seed: int = 1) -> Tables:
    """Each organisation's table. Deterministic: the same seed gives the same bits.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise MissingExtraError("scikit-learn", "demo") from None
    bunch = load_breast_cancer()
    names = [str(name) for name in bunch.feature_names]
    numbers = np.array(
        [f"p{at:04d}" for at in generator(key_of(seed, purpose="patients")).permutation(len(bunch.data))]
    )
    found: dict[str, dict[str, Array]] = {}
    for site, known in KNOWS.items():
        random = generator(key_of(seed, site=site, purpose="patients"))
        rows = random.permutation(len(numbers))[round(len(numbers) * UNKNOWN) :]
        columns = [at for at, name in enumerate(names) if any(each in name for each in known)]
        found[site] = {KEY: numbers[rows], **{names[at]: np.asarray(bunch.data[rows, at]) for at in columns}}
        if site == ROLES["guest"]:
            found[site][LABEL] = 1 - np.asarray(bunch.target[rows], np.int64)
    return found


def write(made: Tables, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Write each organisation's `patients.csv` into its folder.

    Returns:
        Site → the declaration of its data set; of the notary none.
    """
    import csv

    declared: dict[str, dict[str, Any]] = {}
    for site, table in made.items():
        path = folders[site] / f"{DATASET}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(table)
            rows.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        declared[site] = {"kind": "csv", "path": str(path)}
    return declared


def comparison(model: LinearModel, made: Tables, joint: Mapping[str, float]) -> list[dict[str, Any]]:
    """The clinic alone, all together, and pooled training, on the same held-out patients.

    Args:
        joint: the job's metrics, with the names of its roles before them.

    Returns:
        Rows with `name`, `accuracy`, `auc`, `log_loss`, for `Result.report` or a table.
    """
    aligned = common(model, made)
    clinic, others = aligned["clinic"], [aligned[site] for site in KNOWS if site != "clinic"]
    pooled = Table(
        None,
        sum((each.names for each in (clinic, *others)), ()),
        np.column_stack([each.values for each in (clinic, *others)]),
        clinic.label,
    )
    names = ("accuracy", "auc", "log_loss")
    count = clinic.num_rows
    return [
        {"name": f"Clinic alone ({len(clinic.names)} columns)", **_in_the_clear(model, clinic)},
        {"name": f"Joint ({count} common patients)", **{name: joint[f"guest_{name}"] for name in names}},
        {"name": f"Pooled ({len(pooled.names)} columns in one place)", **_in_the_clear(model, pooled)},
    ]


def common(model: LinearModel, made: Tables) -> dict[str, Table]:
    """The common patients' rows at each organisation, in the order in which the job takes them."""
    read = {
        site: read_table(table, key=KEY, label=LABEL if site == "clinic" else None, party=site)
        for site, table in made.items()
    }
    shared = set.intersection(*({str(each) for each in _ids(table)} for table in read.values()))
    found = {}
    for site, table in read.items():
        ids = _ids(table)
        places = np.flatnonzero([str(each) in shared for each in ids])
        found[site] = table.take(meeting.ordered(ids, places, model.seed))
    return found


def columns_of(part: Path) -> list[str]:
    """Names of the columns in a party's part of the model."""
    return list(part_in(decode(part.read_bytes()))[0].columns.own_names)


def _in_the_clear(model: LinearModel, table: Table) -> dict[str, float]:
    """Train on one table and judge by its held-out rows."""
    train, test = meeting.held_out(table.num_rows, model.test, model.seed)
    used, held = table.take(train), table.take(test)
    assert used.label is not None
    assert held.label is not None
    columns, response = model.columns(used, is_guest=True), model.respond(used.label)
    fitted = plaintext.fit(columns.values, response, model.training(), penalised=columns.penalised)
    scores = columns.apply(held.values) @ fitted.weights
    found = measured(response, held.label, response.predict(scores))
    return {name: found[name] for name in ("accuracy", "auc", "log_loss")}


def _ids(table: Table) -> Array:
    assert table.ids is not None
    return table.ids
