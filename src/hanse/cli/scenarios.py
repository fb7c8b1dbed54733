"""What `hanse demo` can show: each scenario's data, app, policies and comparison. `demo` makes the federation."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hanse.core.errors import ConfigError

if TYPE_CHECKING:
    from hanse.clients.loader import AnyApp
    from hanse.rounds.result import Result

DATASET = "patients"
Rows = Sequence[Mapping[str, Any]]


class Scenario(Protocol):
    """One demo's data, app and comparison. `folder`: where its results go, below the demos' own."""

    title: str
    folder: str
    app: str
    sites: tuple[str, ...]
    who: str
    roles: Mapping[str, Sequence[str]] | None
    runs: int
    preload: tuple[str, ...]
    about: str

    def check(self) -> None:
        """Fail early where something is missing."""

    def set(self, app: "AnyApp", rounds: int | None) -> None:
        """Adapt the app to the demo."""

    def policy(self, site: str) -> Mapping[str, Any]:
        """What a site's policy says beside who may run which app."""
        ...

    def keep(self, result: "Result", home: Path, directory: Path) -> Mapping[str, Path]:
        """Leave what was trained in the folder for results; what it is → where."""
        ...

    def write(self, run: int, folders: Mapping[str, Path]) -> Mapping[str, Mapping[str, Any]]:
        """Put each site's data into its folder; site → declaration."""
        ...

    def compare(self, results: Sequence["Result"]) -> Rows:
        """Rows for the table at the end."""
        ...


class Hospitals:
    """What the horizontal demos share: hospitals with the same columns, one model."""

    sites: tuple[str, ...]
    who = "4 hospitals"
    roles: Mapping[str, Sequence[str]] | None = None

    def set(self, app: "AnyApp", rounds: int | None) -> None:
        """See `Scenario.set`."""
        from hanse.clients.app import App

        if not isinstance(app, App):
            raise ConfigError(f"demo: expected an hs.App, found {type(app).__name__}")
        spec = replace(app._spec, min_sites=len(self.sites))
        app._spec = spec if rounds is None else replace(spec, rounds=rounds)

    def policy(self, site: str) -> Mapping[str, Any]:
        """See `Scenario.policy`."""
        return {"min_cohort": 3}

    def keep(self, result: "Result", home: Path, directory: Path) -> Mapping[str, Path]:
        """See `Scenario.keep`."""
        return {"model": result.save(directory / "model.safetensors")}


class BreastCancer(Hospitals):
    """scikit-learn's bundled set over four invented hospitals."""

    title = "Breast cancer, four hospitals"
    folder = "breast-cancer"
    app = "hanse.demos.breast_cancer_app"
    runs = 1
    preload: tuple[str, ...] = ("sklearn.linear_model", "sklearn.metrics", "sklearn.model_selection")
    about = "Judged on the same 171 held-out patients, whom nobody trained on."

    def __init__(self) -> None:
        from hanse.demos.breast_cancer import COUNTS

        self.sites = tuple(COUNTS)

    def check(self) -> None:
        """See `Scenario.check`."""
        from importlib.util import find_spec

        from hanse.core.errors import MissingExtraError

        if find_spec("sklearn") is None:
            raise MissingExtraError("scikit-learn", "demo")

    def write(self, run: int, folders: Mapping[str, Path]) -> Mapping[str, Mapping[str, Any]]:
        """See `Scenario.write`."""
        from hanse.demos import breast_cancer

        self._cut = breast_cancer.hospitals()
        return breast_cancer.write(self._cut, folders)

    def compare(self, results: Sequence["Result"]) -> Rows:
        """See `Scenario.compare`."""
        from hanse.demos import breast_cancer

        return breast_cancer.comparison(results[0].arrays, self._cut)


class HeartDisease(Hospitals):
    """Four real hospitals, split anew by each seed; accuracies are means over seeds."""

    title = "Heart disease, four hospitals"
    folder = "heart-disease"
    app = "hanse.demos.heart_disease_app"
    preload: tuple[str, ...] = ()

    def __init__(self, data: Path | None, seeds: int) -> None:
        from hanse.demos.heart_disease import FILES

        self.sites = tuple(FILES)
        self.runs = seeds
        self.about = (
            "Accuracy at 0.5 on each hospital's test patients and their mean"
            f"{f', means over {seeds} splits' if seeds > 1 else ''}."
        )
        self._data = data
        self._splits: list[Any] = []

    def check(self) -> None:
        """See `Scenario.check`."""
        from hanse.demos.heart_disease import find

        find(self._data)

    def write(self, run: int, folders: Mapping[str, Path]) -> Mapping[str, Mapping[str, Any]]:
        """See `Scenario.write`."""
        from hanse.demos import heart_disease

        sites = heart_disease.hospitals(self._data, seed=run)
        self._splits.append(sites)
        return heart_disease.write(sites, folders)

    def compare(self, results: Sequence["Result"]) -> Rows:
        """See `Scenario.compare`."""
        from hanse.demos import heart_disease

        tables = []
        for result, sites in zip(results, self._splits, strict=True):
            weights, bias = result.arrays.values()
            tables.append(heart_disease.comparison(weights, bias, sites))
        return [_mean_row([table[place] for table in tables]) for place in range(len(tables[0]))]


class Vertical:
    """The same set, but divided by columns: three organisations and a notary."""

    title = "Breast cancer, columns at three organisations"
    folder = "vertical"
    app = "hanse.demos.vertical_app"
    who = "3 organisations with other columns, a notary"
    runs = 1
    preload: tuple[str, ...] = ()
    about = "Judged on common patients whom nobody trained on; joint training never brings the columns together."

    def __init__(self) -> None:
        from hanse.demos.vertical import ROLES

        self.sites = tuple(ROLES.values())
        self._roles = {site: role.partition("-")[0] for role, site in ROLES.items()}
        self.roles: Mapping[str, Sequence[str]] | None = {
            role: [site for site in self.sites if self._roles[site] == role] for role in self._roles.values()
        }

    def check(self) -> None:
        """See `Scenario.check`."""
        BreastCancer.check(self)  # type: ignore[arg-type]  # the same set

    def set(self, app: "AnyApp", rounds: int | None) -> None:
        """See `Scenario.set`."""
        if rounds is not None:
            raise ConfigError("--rounds: expected none with --vertical, whose model has epochs in its file")
        self._model = app

    def policy(self, site: str) -> Mapping[str, Any]:
        """See `Scenario.policy`: this role, with these others, and only what the app says that it reveals."""
        role = self._roles[site]
        revealed = self._model.cast(self._cast()).protocol.reveals  # type: ignore[union-attr]  # it is a model
        words = sorted({each.what for each in revealed if each.about.partition("-")[0] == role})
        peers = [other for other in self.sites if other != site]
        return {"roles": {role: {"peers": peers, "reveals": words}}}

    def write(self, run: int, folders: Mapping[str, Path]) -> Mapping[str, Mapping[str, Any]]:
        """See `Scenario.write`."""
        from hanse.demos import vertical

        self._tables = vertical.tables()
        return vertical.write(self._tables, folders)

    def compare(self, results: Sequence["Result"]) -> Rows:
        """See `Scenario.compare`."""
        from hanse.demos import vertical

        return vertical.comparison(self._model, self._tables, results[0].metrics)  # type: ignore[arg-type]

    def keep(self, result: "Result", home: Path, directory: Path) -> Mapping[str, Path]:
        """See `Scenario.keep`: each organisation's part, side by side, to look at."""
        parts = directory / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        for site in self.sites:
            for kept in (home / site / "outputs" / result.job).glob("*.safetensors"):
                (parts / site).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, parts / site / kept.name)
        return {"parts": parts}

    def _cast(self) -> Sequence[str]:
        from hanse.demos.vertical import ROLES

        return tuple(ROLES)


def _mean_row(rows: Rows) -> Mapping[str, Any]:
    return {
        key: rows[0][key] if isinstance(rows[0][key], str) else sum(row[key] for row in rows) / len(rows)
        for key in rows[0]
    }
