"""Errors as status codes, there and back."""

import grpc
import pytest

from hanse.backends.grpc.client import _Ended
from hanse.backends.grpc.protocol import MAX_MESSAGE_BYTES, PIECE_BYTES, error_of, pieces, status_of
from hanse.core import errors


@pytest.mark.parametrize(
    ("error", "back"),
    [
        (errors.PolicyError("x"), errors.PolicyError),
        (errors.TrustError("x"), errors.TrustError),
        (errors.NotFoundError("x"), errors.NotFoundError),
        (errors.ConflictError("x"), errors.ConflictError),
        (errors.TooLargeError("x"), errors.TooLargeError),
        (errors.IntegrityError("x"), errors.IntegrityError),
        (errors.CodecError("x"), errors.ConfigError),
        (errors.ConfigError("x"), errors.ConfigError),
        (errors.StorageError("x"), errors.StorageError),
        (errors.UnavailableError("x"), errors.UnavailableError),
        (errors.HanseError("x"), errors.HanseError),
    ],
    ids=lambda value: str(value),
)
def test_an_error_comes_back_as_its_kind(error: errors.HanseError, back: type[errors.HanseError]) -> None:
    again = error_of(_Ended(status_of(error), str(error)))
    assert type(again) is back
    assert "x" in str(again)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_is_some_error_of_ours(code: grpc.StatusCode) -> None:
    assert isinstance(error_of(_Ended(code, "why")), errors.HanseError)


def test_pieces_are_the_content() -> None:
    first, last = 5, 4 * PIECE_BYTES + 8
    found = list(pieces(first, last))
    assert [start for start, _ in found] == [first, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == last
    assert max(stop - start for start, stop in found) == PIECE_BYTES < MAX_MESSAGE_BYTES
    assert list(pieces(7, 7)) == []
