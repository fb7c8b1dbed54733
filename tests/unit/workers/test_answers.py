"""What a worker could answer instead of a reply: each is refused as such, whatever Python would have made of it."""

from pathlib import Path

import pytest

from hanse.core.arrays import Arrays
from hanse.core.codec import encode
from hanse.core.errors import CodecError
from hanse.core.ids import TaskId
from hanse.core.records import Reply, Task
from hanse.workers.answers import called_in, done_in
from hanse.workers.assignment import Assignment
from hanse.workers.wire import Frame

TASK = Task(TaskId("job", "main", 1, "train", 0), "a", "train", seed=1)


@pytest.mark.parametrize("size", [float("inf"), 3.0, "3", None, 10**30, -1])
def test_sizes_that_are_none(tmp_path: Path, size: object) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    reply = Reply.failed(TASK.id, "a", "raised", "no").pack()
    fields = {"state": "file", "arrays": "file", "size": size}
    with pytest.raises(CodecError):
        done_in(Frame("done", fields, (reply, bytes(32))), Assignment(TASK, after=file), site="a")
    with pytest.raises(CodecError):
        called_in(Frame("called", fields, (b"1", bytes(32))), file)


def test_a_value_that_is_nested_too_deeply() -> None:
    arrays = encode(Arrays({"w": [1.0]}))
    assert called_in(Frame("called", {"arrays": "inline"}, (b"[1]", arrays)), None).value == [1]
    with pytest.raises(CodecError, match="too deeply"):
        called_in(Frame("called", {"arrays": "inline"}, (b"[" * 100_000, arrays)), None)
