"""Train the provider-fraud model over three sites on this machine, and save it as a scikit-learn estimator.

python examples/medicare_fraud/train.py                                    an invented table
python examples/medicare_fraud/train.py --data provider_features_19.csv    your own copy of the real one
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import app as fraud  # type: ignore[import-not-found]  # beside this file
import data  # type: ignore[import-not-found]  # beside this file

import hanse as hs

SITES = ("north", "east", "south")


def main(arguments=None):
    """Run; the result."""
    parser = argparse.ArgumentParser(description="Provider fraud over three sites.")
    parser.add_argument("--data", type=Path, help=f"your own {data.FILE}; by default an invented table")
    parser.add_argument("--balance", choices=("weights", "smote"), default="weights")
    parser.add_argument("--output", type=Path, help="where to save the estimator (.skops; .joblib is a pickle)")
    parser.add_argument("--tracking", help="address of an MLflow server")
    given = parser.parse_args(arguments)
    sites, test = data.cut(*(data.invented() if given.data is None else data.read(given.data)), SITES)
    tracking = None
    if given.tracking:
        tracking = hs.tracking.MLflow(given.tracking, prefix="medicare-fraud", params=fraud.SETTINGS)
    result = hs.simulate(
        fraud.make_app(given.balance, tracking),
        {site: {"providers": part} for site, part in sites.items()},
        server={"test": test},
    )
    for record in result.rounds:
        shown = {name.removeprefix("server_"): each for name, each in record.metrics.items() if "server_" in name}
        print(f"round {record.number}  " + "  ".join(f"{name} {each:.4f}" for name, each in sorted(shown.items())))
    if given.output is not None:
        hs.save_estimator(fraud.estimator(result.arrays), given.output)
        print(f"saved {given.output}")
    return result


if __name__ == "__main__":
    main()
