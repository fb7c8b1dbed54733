"""Providers' data for the example: the columns, a reader of the user's own table, a generator, and the cut into sites.

The real table is worked out from the Kaggle set "Healthcare Provider Fraud Detection Analysis" (5,410 providers,
9.35 % marked as potential fraud), one row a provider. It is not part of Hanse; `invented` makes one with the same
columns, size and imbalance for everybody else. An invented table shows that things run. It says nothing about fraud.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import csv
import zlib
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

COLUMNS = (
    "InpatientClaimCount",
    "UniqueInpatientBeneficiaries",
    "AvgInpatientReimbursement",
    "TotalInpatientReimbursement",
    "AvgLengthOfStay",
    "MaxLengthOfStay",
    "AvgDiagnosisCount",
    "OutpatientClaimCount",
    "UniqueOutpatientBeneficiaries",
    "AvgOutpatientReimbursement",
    "TotalOutpatientReimbursement",
    "AvgPatientAge",
    "AvgChronicConditions",
    "DeceasedRate",
    "AvgIPAnnualReimbursement",
    "AvgOPAnnualReimbursement",
    "UniqueBeneficiaries",
)
LABEL = "Fraud"
FILE = "provider_features_19.csv"
PROVIDERS, FRAUD_SHARE = 5410, 506 / 5410


def read(path):
    """The table of a file: providers' names, X float64 `(n, 17)`, y int64 `(n,)`, 1 = marked as potential fraud."""
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {*COLUMNS, LABEL} - set(rows[0])
    if missing:
        raise SystemExit(f"{path}: expected the columns {', '.join(sorted(missing))}, found them missing")
    X = np.array([[float(row[name] or 0) for name in COLUMNS] for row in rows])
    return [row["Provider"] for row in rows], X, np.array([int(row[LABEL]) for row in rows])


def invented(seed=0, n=PROVIDERS):
    """A table with the same columns, size and imbalance. Fraud here is: more and dearer inpatient business."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < round(FRAUD_SHARE * n)).astype(int)
    rng.shuffle(y)

    def counts(usual, of_fraud, spread):
        return np.floor(np.exp(rng.normal(np.where(y == 1, of_fraud, usual), spread)))

    has_inpatients = rng.random(n) < np.where(y == 1, 0.88, 0.36)
    inpatient = np.where(has_inpatients, counts(1.6, 3.7, 1.0), 0.0)
    outpatient = counts(3.4, 4.1, 1.3)
    share = rng.uniform(0.75, 1.0, (2, n))
    per_stay = np.where(inpatient > 0, np.exp(rng.normal(np.where(y == 1, 9.2, 9.0), 0.5)), 0.0)
    per_visit = np.exp(rng.normal(5.5, 0.6, n))
    days = np.where(inpatient > 0, rng.gamma(6, 0.9, n), 0.0)
    patients = np.maximum(1, np.floor(share[0] * inpatient + share[1] * outpatient))
    X = np.column_stack(
        [
            inpatient,
            np.ceil(share[0] * inpatient),
            per_stay,
            per_stay * inpatient,
            days,
            np.ceil(days * rng.uniform(1, 5, n)),
            np.where(inpatient > 0, rng.normal(8, 0.7, n).clip(1, 10), 0.0),
            outpatient,
            np.ceil(share[1] * outpatient),
            per_visit,
            per_visit * outpatient,
            rng.normal(73, 5, n).clip(30, 100),
            rng.normal(4.5, 0.9, n).clip(0, 11),
            rng.beta(0.3, 40, n),
            np.exp(rng.normal(8.4, 0.7, n)),
            np.exp(rng.normal(7.5, 0.5, n)),
            patients,
        ]
    )
    return [f"PRV{50000 + row}" for row in range(n)], X, y


def cut(names, X, y, sites, *, seed=0, test=0.3):
    """The test part, 30 % with the same share of fraud, for the server; the rest by a hash of the name for the sites.

    Returns:
        site → (X, y); and the server's (X, y).
    """
    _, tested = train_test_split(np.arange(len(y)), test_size=test, stratify=y, random_state=seed)
    held_out = np.isin(np.arange(len(y)), tested)
    place = np.array([zlib.crc32(name.encode()) % len(sites) for name in names])
    parts = {site: ~held_out & (place == number) for number, site in enumerate(sites)}
    return {site: (X[rows], y[rows]) for site, rows in parts.items()}, (X[held_out], y[held_out])


def write(path, X, y):
    """A table as a site's `kind: csv` with `target: Fraud` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*COLUMNS, LABEL])
        out.writerows([*map(repr, map(float, row)), int(label)] for row, label in zip(X, y, strict=True))
