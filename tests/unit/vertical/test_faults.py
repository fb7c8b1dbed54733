"""The list of faults of vertical jobs, one by one and for every model: refused by name, and no datum in the message."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hanse as hs
from hanse.channels.app import RoleApp
from hanse.core.errors import ConfigError, HanseError, JobFailed, RefusedError

SECRET = "smith-4711"
Tables = tuple[dict[str, Any], dict[str, Any]]
MODELS = {
    "dealer": hs.vertical.LogisticRegression(epochs=1, batch_rows=40),
    "arbiter": hs.vertical.LogisticRegression(epochs=1, batch_rows=40, protocol="arbiter"),
    "dealer-free": hs.vertical.LogisticRegression(epochs=1, batch_rows=40, protocol="dealer-free"),
    "trees": hs.vertical.Boosting(num_trees=1, depth=1, cipher="mock", min_bin_rows=5),
}


def tables() -> Tables:
    rng = np.random.default_rng(0)
    ids = np.array([f"{SECRET}-{at}" for at in range(80)])
    bank = {"id": ids, "y": np.arange(80) % 2, "age": rng.standard_normal(80)}
    return bank, {"id": ids[::-1], "sales": rng.standard_normal(80), "calls": rng.standard_normal(80)}


def nobody_in_common(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["id"] = np.array([f"other-{at}" for at in range(80)])


def somebody_twice_at_the_guest(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    bank["id"] = np.append(bank["id"][1:], bank["id"][1])


def somebody_twice_at_the_host(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["id"] = np.append(shop["id"][1:], shop["id"][1])


def other_identifiers_at_the_host(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["id"] = np.arange(80)


def identifiers_that_are_no_whole_numbers(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["id"] = np.arange(80) + 0.25


def label_at_the_host(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["y"] = bank["y"]


def no_label_at_the_guest(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    del bank["y"]


def label_of_one_value(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    bank["y"] = np.full(80, 4711)


def label_that_is_missing(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    bank["y"] = np.where(np.arange(80) == 3, np.nan, 1.0 * bank["y"])


def constant_column(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["sales"] = np.full(80, 4711.0)


def infinite_value(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["sales"] = np.where(np.arange(80) == 3, np.inf, shop["sales"])


def category_as_text(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["sales"] = np.array([SECRET, "red"] * 40)


def columns_of_other_lengths(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["sales"] = shop["sales"][1:]


def values_beyond_fixed_point(bank: dict[str, Any], shop: dict[str, Any]) -> None:
    shop["sales"] = np.where(np.arange(80) == 3, 1e308, -1e308)


FAULTS: list[tuple[Callable[[Any, Any], None], str]] = [
    (nobody_in_common, "expected rows that all parties hold, found none in common"),
    (somebody_twice_at_the_guest, "found 1 that repeat another"),
    (somebody_twice_at_the_host, "found 1 that repeat another"),
    (other_identifiers_at_the_host, "ids: expected one kind, found text at guest, whole numbers at host"),
    (identifiers_that_are_no_whole_numbers, "host: 'id': expected whole numbers or text"),
    (label_at_the_host, "host: expected no column 'y', which is the label and belongs to the guest"),
    (no_label_at_the_guest, "guest: expected a column 'y' as the label, found none"),
    (label_of_one_value, "label: expected"),
    (label_that_is_missing, "label: expected finite values, found 1"),
    (constant_column, "expected columns that vary.*found 1"),
    (infinite_value, "expected finite"),
    (category_as_text, "host: expected numbers in every column, found 1 columns of other kinds: 'sales'"),
    (columns_of_other_lengths, "host: expected columns of one length, found 2 lengths"),
    (values_beyond_fixed_point, "expected columns that vary within the range of floats, found 1"),
]
TREES_TAKE = (constant_column, values_beyond_fixed_point)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
@pytest.mark.filterwarnings("error")
def test_it_is_refused_by_name(model: str, fault: Any, words: str) -> None:
    bank, shop = tables()
    fault(bank, shop)
    if model == "trees" and fault in TREES_TAKE:
        assert hs.vertical.simulate(MODELS[model], bank, shop).metrics
        return
    with pytest.raises((ConfigError, RefusedError), match=words) as refused:
        hs.vertical.simulate(MODELS[model], bank, shop)
    assert SECRET not in str(refused.value)
    assert "4711" not in str(refused.value)


@pytest.mark.parametrize("model", ["dealer", "trees"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (nobody_in_common, "found none in common"),
        (somebody_twice_at_the_host, "found 1 that repeat another"),
        (other_identifiers_at_the_host, "expected"),
        (infinite_value, "finite"),
        (category_as_text, "host: expected numbers in every column, found 1 columns of other kinds"),
        (lambda bank, shop: shop.pop("sales"), "host: expected the columns that were trained on, found 1 missing"),
    ],
)
def test_further_rows_that_do_not_fit_are_refused_by_name(model: str, fault: Any, words: str) -> None:
    result = hs.vertical.simulate(MODELS[model], *tables())
    bank, shop = tables()
    fault(bank, shop)
    with pytest.raises(HanseError, match=words) as refused:
        result.predict(bank, shop)
    assert SECRET not in str(refused.value)


STATISTICS: dict[str, RoleApp] = {
    "binning": hs.vertical.Binning(dataset="customers", key="id", label="y", num_bins=3),
    "correlation": hs.vertical.Correlation(dataset="customers", key="id"),
    "vif": hs.vertical.VIF(dataset="customers", key="id"),
    "transfer": hs.vertical.TransferLearning(dataset="customers", key="id", label="y", iterations=1),
}
LABELLED = ("binning", "transfer")


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (nobody_in_common, "found none in common"),
        (somebody_twice_at_the_host, "found 1 that repeat another"),
        (other_identifiers_at_the_host, "expected one kind, found"),
        (category_as_text, "expected columns of numbers beside 'id', found others in sales"),
        (columns_of_other_lengths, "expected columns of one length, found 2 lengths"),
        (infinite_value, "expected .*finite"),
        (label_at_the_host, "expected no column 'y', which is the label and belongs to the guest"),
        (no_label_at_the_guest, "expected a column 'y' as the label, found none"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_statistics_and_transfer_refuse_by_name(name: str, fault: Any, words: str) -> None:
    if name not in LABELLED and fault in (label_at_the_host, no_label_at_the_guest):
        pytest.skip("it has no label")
    bank, shop = tables()
    fault(bank, shop)
    if name not in LABELLED:
        bank.pop("y", None)
    roles = {"guest": "bank", "host": "shop", **({} if name == "binning" else {"arbiter": "notary"})}
    sites = {"bank": {"customers": bank}, "shop": {"customers": shop}, "notary": {}}
    with pytest.raises(JobFailed, match=words) as refused:
        hs.simulate(STATISTICS[name], sites, roles=roles)
    assert SECRET not in str(refused.value)
    assert "Error;" not in str(refused.value)
