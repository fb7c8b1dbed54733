"""gRPC's log on the server: callers who left first leave no trace, faults of ours do."""

import logging
import sys

import pytest
from grpc._cython.cygrpc import ExecuteBatchError

from hanse.backends.grpc.service import is_worth_a_trace


def record_of(error: Exception | None) -> logging.LogRecord:
    try:
        if error is not None:
            raise error
    except Exception:
        return logging.LogRecord("grpc", logging.ERROR, "server.pyx", 1, "raised in core", (), sys.exc_info())
    return logging.LogRecord("grpc", logging.ERROR, "server.pyx", 1, "raised in core", (), None)


def test_a_status_that_could_not_be_sent_is_no_fault() -> None:
    failed = ExecuteBatchError('Failed "execute_batch": (<SendStatusFromServerOperation object>,)')
    assert not is_worth_a_trace(record_of(failed))


@pytest.mark.parametrize(
    "error",
    [
        ExecuteBatchError("Failed grpc_call_start_batch: 8 with grpc_call_error value: 'TOO_MANY_OPERATIONS'"),
        ValueError('Failed "execute_batch"'),
        None,
    ],
)
def test_everything_else_stays(error: Exception | None) -> None:
    assert is_worth_a_trace(record_of(error))
