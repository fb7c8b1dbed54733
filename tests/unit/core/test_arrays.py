"""`Arrays` and `Layout`."""

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hanse.core.arrays import DTYPES, Arrays
from hanse.core.errors import UpdateError


def test_an_ordered_mapping_of_arrays() -> None:
    arrays = Arrays([("w", [[1.0, 2.0]]), ("b", [0])])
    assert list(arrays) == ["w", "b"]
    assert len(arrays) == 2
    assert arrays["w"].shape == (1, 2)
    assert (arrays.layout.size, arrays.nbytes, arrays.layout.nbytes) == (3, 24, 24)


def test_lists_are_named_by_position() -> None:
    arrays = Arrays.from_list([np.ones(2), np.zeros((1, 1))])
    assert list(arrays) == ["0", "1"]
    assert [array.shape for array in arrays.to_list()] == [(2,), (1, 1)]


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_every_dtype_that_may_travel(dtype: np.dtype[Any]) -> None:
    array = Arrays({"a": np.zeros((2, 2), dtype)})["a"]
    assert array.dtype == dtype


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array([object()]),
        np.zeros(1, "complex128"),
        np.zeros(1, "longdouble"),
        np.zeros(1, "datetime64[s]"),
        np.zeros(1, [("x", "f4")]),
        np.zeros(1, ml_dtypes.float8_e4m3fnuz),
    ],
    ids=lambda value: str(value.dtype),
)
def test_other_dtypes_are_refused_without_their_values(value: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UpdateError, match="expected a dtype") as refused:
        Arrays({"a": value})
    assert "text" not in str(refused.value)


def test_foreign_byte_order_and_strides_are_made_plain() -> None:
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    arrays = Arrays({"big": big, "turned": np.arange(6.0).reshape(2, 3).T, "step": np.arange(10)[::2]})
    assert arrays["big"].dtype == np.dtype("<f4")
    np.testing.assert_array_equal(arrays["big"], big)
    assert all(array.flags.c_contiguous for array in arrays.values())
    assert arrays["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["step"].tolist() == [0, 2, 4, 6, 8]


def test_scalars_keep_their_empty_shape() -> None:
    assert Arrays({"a": np.float32(3)})["a"].shape == ()


def test_repeated_names_are_refused() -> None:
    with pytest.raises(UpdateError, match="distinct names"):
        Arrays([("a", [1]), ("a", [2])])


def test_equality_is_of_bits() -> None:
    assert Arrays({"a": [np.nan]}) == Arrays({"a": [np.nan]})
    assert Arrays({"a": [0.0]}) != Arrays({"a": [-0.0]})
    assert Arrays({"a": [1.0], "b": [1.0]}) != Arrays({"b": [1.0], "a": [1.0]})
    assert Arrays({"a": [1.0]}) != Arrays({"a": [1]})
    assert Arrays({"a": [1.0]}) != {"a": 1.0}


def test_the_first_difference_of_layouts_is_named() -> None:
    layout = Arrays({"w": np.ones((2, 3)), "b": np.ones(2)}).layout
    assert layout.difference(Arrays({"w": np.zeros((2, 3)), "b": np.zeros(2)}).layout) is None
    assert layout.difference(Arrays({"w": np.ones((2, 3))}).layout) == "expected 2 arrays, found 1"
    other = Arrays({"w": np.ones((3, 2)), "b": np.ones(2)}).layout
    assert layout.difference(other) == "expected w float64 (2, 3), found w float64 (3, 2)"


def test_arrays_that_lie_end_to_end_are_one_vector_and_copies_never_disagree_with_theirs() -> None:
    layout = Arrays({"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}).layout
    vector = np.arange(8, dtype=np.float32)
    arrays = Arrays.end_to_end(layout, vector)
    assert [block is vector for block in arrays.flat()] == [True]
    vector[6] = 60
    assert arrays["b"].tolist() == [60, 7]
    for again in (arrays.copy(), copy.deepcopy(arrays), copy.copy(arrays), pickle.loads(pickle.dumps(arrays))):
        again["w"][0, 0] = -1.0
        assert again.layout == layout
        assert np.concatenate(again.flat()).tolist() == [-1, 1, 2, 3, 4, 5, 60, 7]
    vector[0] = 0
    again = arrays.copy()
    again["w"][0, 0] = -1.0
    assert vector[0] == 0


@pytest.mark.parametrize("vector", [np.zeros(7, np.float32), np.zeros(8), np.zeros(16, np.float32)[::2]])
def test_a_vector_that_is_not_the_arrays_end_to_end_is_refused(vector: Any) -> None:
    layout = Arrays({"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}).layout
    with pytest.raises(UpdateError, match="contiguous vector of 8 elements"):
        Arrays.end_to_end(layout, vector)
