"""Write the three insurers' tables and the server's test set beside this file, for `launch --local`.

python examples/medicare_fraud/sagemaker/prepare.py [provider_features_19.csv] [FOLDER]
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import data  # type: ignore[import-not-found]  # the folder above

SITES = ("north", "east", "south")


def main(table=None, folder=None):
    """Write; the folder."""
    place = Path(folder) if folder else Path(__file__).parent
    sites, test = data.cut(*(data.read(table) if table else data.invented()), SITES)
    for site, part in sites.items():
        data.write(place / "data" / site / "providers.csv", *part)
    data.write(place / "data" / "test.csv", *test)
    print(f"wrote {len(sites)} tables and the test set below {place / 'data'}")
    return place


if __name__ == "__main__":
    main(*sys.argv[1:])
