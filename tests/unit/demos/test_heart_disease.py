import hashlib
from pathlib import Path

import numpy as np
import pytest

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, IntegrityError
from hanse.demos import heart_disease as demo
from hanse.strategies import named

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")

SHARED = Path(__file__).parents[4] / "shared" / "data" / "heart_disease"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the UCI files in ../shared/data/heart_disease")
SIZES = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
SEEDS = range(5)


def reference(sites: dict[str, demo.Hospital], rounds: int, steps: int, rate: float) -> Array:
    """FedAvg with equal weights, slowly: loops over rounds, hospitals, steps and patients; nothing of Hanse."""
    model = np.zeros(14)
    for _ in range(rounds):
        locals_ = []
        for hospital in sites.values():
            w = model.copy()
            for _ in range(steps):
                slope = np.zeros(14)
                for x, y in zip(hospital.X, hospital.y, strict=True):
                    row = np.append(x, 1.0)
                    slope += (1 / (1 + np.exp(-row @ w)) - y) * row / len(hospital.y)
                w -= rate * slope
            locals_.append(w)
        model = np.asarray(np.mean(locals_, axis=0))
    return model


class TestFind:
    def test_without_data_the_error_says_where_they_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANSE_CACHE", str(tmp_path / "cache"))
        with pytest.raises(ConfigError) as caught:
            demo.find()
        text = str(caught.value)
        assert "UCI Machine Learning Repository, 'Heart Disease'" in text
        assert str(tmp_path / "cache" / "heart_disease") in text
        for name, digest in demo.FILES.values():
            assert f"{digest}  {name}" in text

    def test_a_named_folder_comes_before_the_cache(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"expected four files in .*elsewhere, 4 of them not there"):
            demo.find(tmp_path / "elsewhere")

    def test_other_content_is_refused(self, tmp_path: Path) -> None:
        for name, _ in demo.FILES.values():
            (tmp_path / name).write_bytes(b"1,2,3\n")
        found = hashlib.sha256(b"1,2,3\n").hexdigest()
        with pytest.raises(IntegrityError, match=f"cleveland.data: expected SHA-256 a74b7e.*, found {found}"):
            demo.find(tmp_path)

    @needs_data
    def test_the_cache_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "heart_disease").symlink_to(SHARED)
        monkeypatch.setenv("HANSE_CACHE", str(tmp_path))
        assert demo.find() == tmp_path / "heart_disease"


class TestRead:
    def test_columns_levels_and_missing_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "x.data"
        path.write_text(
            "63.0,1.0,4.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,2\n"
            "50.0,0.0,1.0,120.0,200.0,0.0,0.0,160.0,1.0,0.0,?,?,?,0\n"
            "51.0,0.0,1.0,?,200.0,0.0,0.0,160.0,1.0,0.0,1.0,0.0,3.0,0\n"
        )
        X, y = demo.read(path)
        assert y.tolist() == [1, 0]
        assert X.tolist() == [
            [63, 1, 145, 233, 1, 150, 0, 2.3, 0, 0, 1, 0, 1],
            [50, 0, 120, 200, 0, 160, 1, 0.0, 0, 0, 0, 0, 0],
        ]

    def test_another_form_is_refused_without_its_content(self, tmp_path: Path) -> None:
        path = tmp_path / "x.data"
        path.write_text("63.0,1.0\n")
        with pytest.raises(ConfigError, match=r"x\.data, line 1: expected 14 values, found 2"):
            demo.read(path)

    @needs_data
    def test_sizes_and_shares_are_the_published_ones(self) -> None:
        rows = {site: demo.read(SHARED / name) for site, (name, _) in demo.FILES.items()}
        assert {site: X.shape for site, (X, _) in rows.items()} == {
            "cleveland": (303, 13), "hungarian": (261, 13), "switzerland": (46, 13), "va": (130, 13),
        }  # fmt: skip
        shares = {site: round(float(y.mean()), 2) for site, (_, y) in rows.items()}
        assert shares == {"cleveland": 0.46, "hungarian": 0.38, "switzerland": 0.98, "va": 0.78}


@needs_data
class TestHospitals:
    @pytest.mark.parametrize("seed", [0, 43])
    def test_split_sizes(self, seed: int) -> None:
        sites = demo.hospitals(SHARED, seed=seed)
        assert {site: (len(h.y), len(h.y_test)) for site, h in sites.items()} == SIZES

    def test_scaled_by_their_own_train_rows(self) -> None:
        for hospital in demo.hospitals(SHARED).values():
            np.testing.assert_allclose(hospital.X.mean(axis=0), 0, atol=1e-12)
            spread = hospital.X.std(axis=0)
            assert np.all(np.isclose(spread, 1) | (spread == 0))
            assert np.isfinite(hospital.X_test).all()

    def test_files_hold_what_simulation_gets(self, tmp_path: Path) -> None:
        sites = demo.hospitals(SHARED)
        declared = demo.write(sites, {"va": tmp_path / "va"})
        with np.load(declared["va"]["path"], allow_pickle=False) as content:
            for name, array in demo.data_sets(sites)["va"][demo.DATASET].items():
                np.testing.assert_array_equal(content[name], array)
        with pytest.raises(ConfigError, match="found 'paris'"):
            demo.write(sites, {"paris": tmp_path})

    def test_accuracy_reaches_the_bar(self) -> None:
        """Mean of the four test sets over five seeds ≥ 0.73, and ≥ pooled training of the same run − 0.01."""
        import hanse as hs
        from hanse.demos.heart_disease_app import LEARNING_RATE, ROUNDS, STEPS, app

        assert named("fedavg", {"weights": "equal"}) == app.given_strategy
        means = []
        for seed in SEEDS:
            sites = demo.hospitals(SHARED, seed=seed)
            result = hs.simulate(app, sites=demo.data_sets(sites), progress=False)
            weights, bias = result.arrays.to_list()
            if seed == 0:
                slow = reference(sites, ROUNDS, STEPS, LEARNING_RATE)
                np.testing.assert_allclose(np.append(weights, bias), slow, rtol=1e-9, atol=1e-12)
            means.append([row["accuracy"] for row in demo.comparison(weights, bias, sites)])
        federated, pooled_equal, pooled_plain = np.mean(means, axis=0)
        assert federated >= 0.73
        assert federated >= pooled_equal - 0.01
        assert federated >= pooled_plain - 0.01
        assert federated == pytest.approx(0.7475, abs=0.005), "the figure in the module's docstring"

    def test_sites_report_the_accuracy_of_the_comparison(self) -> None:
        import hanse as hs
        from hanse.demos.heart_disease_app import app

        sites = demo.hospitals(SHARED, seed=1)
        result = hs.simulate(app, sites=demo.data_sets(sites), progress=False)
        weights, bias = result.arrays.to_list()
        row = demo.comparison(weights, bias, sites)[0]
        reported = {site: metrics["accuracy"] for site, metrics in result.rounds[-1].by_site.items()}
        assert reported == pytest.approx({site: row[site] for site in SIZES})
        assert row["accuracy"] == pytest.approx(np.mean([row[site] for site in SIZES]))
