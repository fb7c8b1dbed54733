"""What passes between a simulation and its replicas: frames of JSON and arrays on a pair of sockets, nothing pickled.

    4 bytes    length of the header        8 bytes    length of the payload
    header     JSON                        payload    arrays in canonical safetensors and site states, end to end

Tasks and replies of one chunk travel as columns, since what they share is most of them.
"""

import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.aggregation import Partial
from hanse.clients.execute import Outcome
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest
from hanse.core.codec import decode, encode_parts, encoded_size
from hanse.core.errors import UnavailableError
from hanse.core.ids import TaskId
from hanse.core.quickly import maker
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.tracked import Tracked, decode_tracked, encode_tracked
from hanse.rounds.hosts.host import plain, unplain
from hanse.simulation.engine import Answered, Batch, Item, Summed, Summing

Buffer = bytes | memoryview
_task_id, _task, _reply = maker(TaskId), maker(Task), maker(Reply)
_LENGTHS = struct.Struct("<IQ")


class Closed(UnavailableError):
    """The other side has ended."""


def send(link: socket.socket, header: Mapping[str, Any], parts: Sequence[Buffer] = ()) -> None:
    """Send one frame.

    Raises:
        Closed: nobody reads it.
    """
    text = json.dumps(header, separators=(",", ":")).encode()
    total = sum(len(part) for part in parts)
    try:
        link.sendall(_LENGTHS.pack(len(text), total) + text)
        for part in parts:
            link.sendall(part)
    except OSError:
        raise Closed("the other process has ended") from None


def receive(link: socket.socket) -> tuple[dict[str, Any], memoryview]:
    """The next frame's header and payload.

    Raises:
        Closed: there is none.
    """
    head, total = _LENGTHS.unpack(_exactly(link, _LENGTHS.size))
    header: dict[str, Any] = json.loads(bytes(_exactly(link, head)))
    return header, _exactly(link, total)


def _exactly(link: socket.socket, count: int) -> memoryview:
    content = memoryview(bytearray(count))
    got = 0
    while got < count:
        try:
            read = link.recv_into(content[got:])
        except OSError:
            read = 0
        if not read:
            raise Closed("the other process has ended")
        got += read
    return content


# ---- tasks ----


def batch_frame(batch: Batch) -> tuple[dict[str, Any], list[Buffer]]:
    """Tasks without their model, which is sent once for many batches."""
    first = batch.tasks[0]
    configs: dict[str, int] = {}
    config_of: list[int] = []
    last: Any = None
    for task in batch.tasks:  # most tasks share one, which is one and the same object
        if task.config is not last:
            last, place = task.config, configs.setdefault(json.dumps(plain(task.config)), len(configs))
        config_of.append(place)
    payloads = [task.payload for task in batch.tasks]
    states = [state or b"" for state in batch.states]
    header = {
        "job": first.id.job,
        "component": first.id.component,
        "round": first.id.round,
        "phase": first.id.phase,
        "update_kind": first.update_kind,
        "seed": first.seed,
        "allow_nonfinite": first.allow_nonfinite,
        "model": _ref_json(first.model),
        "positions": list(batch.positions),
        "ordinals": [task.id.ordinal for task in batch.tasks],
        "sites": [task.site for task in batch.tasks],
        "attempts": [task.attempt for task in batch.tasks],
        "calls": [task.call for task in batch.tasks],
        "config_of": config_of,
        "payloads": [len(payload) for payload in payloads],
        "states": [-1 if state is None else len(state) for state in batch.states],
        "summing": None if batch.summing is None else _summing_json(batch.summing),
        "whole": [batch.whole_from, batch.whole_below],
        "stop_at_failure": batch.stop_at_failure,
        "configs": [json.loads(config) for config in configs],
    }
    return header, [*filter(None, payloads), *filter(None, states)]


def read_batch(header: Mapping[str, Any], payload: memoryview, model: Arrays | None) -> Batch:
    """Read what `batch_frame` wrote."""
    pieces = _pieces(payload)
    ref = _read_ref(header["model"])
    configs = [unplain(config) for config in header["configs"]]
    job, component, round_, phase = (header[name] for name in ("job", "component", "round", "phase"))
    payloads = [bytes(pieces(length)) for length in header["payloads"]]
    states = [None if length < 0 else bytes(pieces(length)) for length in header["states"]]
    columns = zip(
        header["ordinals"], header["sites"], header["attempts"], header["calls"], header["config_of"], payloads,
        strict=True,
    )  # fmt: skip
    kind, seed, any_value = header["update_kind"], header["seed"], header["allow_nonfinite"]
    tasks = []
    for ordinal, site, attempt, call, config, given in columns:
        name = _task_id(job, component, round_, phase, ordinal)
        tasks.append(
            _task(name, site, call, "", attempt, configs[config], ref, kind, seed, any_value, given, None, 0.0)
        )
    summing = header["summing"]
    return Batch(
        header["positions"],
        tasks,
        states,
        model,
        None if summing is None else Summing(summing[0], summing[1], summing[2], tuple(summing[3])),
        header["whole"][0],
        header["whole"][1],
        header["stop_at_failure"],
    )


# ---- replies ----


def done_frame(items: Sequence[Item]) -> tuple[dict[str, Any], list[Buffer]]:
    """What came of a chunk: first who was summed, then who was not, then the sums over its subtrees."""
    positions: list[int] = []
    replies: list[Reply] = []
    kept: list[bytes | None] = []
    tracked: dict[int, tuple[Tracked, ...]] = {}
    updates: list[int] = []
    parts: list[Buffer] = []
    for item in items:
        if isinstance(item, Summed):
            positions.extend(item.positions)
            replies.extend(item.replies)
            kept.extend(item.states)
            tracked |= item.tracked
    num_summed = len(positions)
    for item in items:
        if isinstance(item, Answered):
            reply, arrays, state, said = item.outcome
            positions.append(item.position)
            if said:
                tracked[item.position] = said
            replies.append(reply)
            kept.append(state)
            updates.append(-1 if arrays is None else encoded_size(arrays.layout))
            parts.extend(() if arrays is None else encode_parts(arrays))
    sums = [item.to_arrays() for item in items if isinstance(item, Partial)]
    for arrays in sums:
        parts.extend(encode_parts(arrays))
    parts.extend(state for state in kept if state is not None)
    header = {
        "positions": positions,
        "num_summed": num_summed,
        "errors": {place: [r.error_kind, r.error] for place, r in enumerate(replies) if r.error_kind},
        "num_examples": [reply.num_examples for reply in replies],
        "metrics": [plain(reply.metrics)["map"] if reply.metrics else {} for reply in replies],
        "kinds": [reply.update_kind for reply in replies],
        "based": [bool(reply.base) for reply in replies],
        "seconds": [reply.seconds for reply in replies],
        "fingerprint": next((reply.fingerprint for reply in replies if reply.fingerprint), ""),
        "updates": updates,
        "states": [-1 if state is None else len(state) for state in kept],
        "tracked": {position: encode_tracked(said).decode() for position, said in tracked.items()},
        "sums": [encoded_size(arrays.layout) for arrays in sums],
    }
    return header, parts


def read_done(header: Mapping[str, Any], payload: memoryview, batch: Batch) -> Iterator[Item]:
    """Read what `done_frame` wrote of this batch."""
    pieces = _pieces(payload)
    updates = [None if size < 0 else decode(pieces(size)) for size in header["updates"]]
    sums = [decode(pieces(size)) for size in header["sums"]]
    states = [None if size < 0 else bytes(pieces(size)) for size in header["states"]]
    replies = list(_replies(header, dict(zip(batch.positions, batch.tasks, strict=True))))
    positions, count = header["positions"], header["num_summed"]
    tracked = {int(position): decode_tracked(said.encode()) for position, said in header["tracked"].items()}
    if count:
        yield Summed(positions[:count], replies[:count], states[:count], tracked)
    alone = zip(positions[count:], replies[count:], updates, states[count:], strict=True)
    for position, reply, arrays, state in alone:
        yield Answered(position, Outcome(reply, arrays, state, tracked.get(position, ())))
    for arrays in sums:
        assert batch.model is not None
        yield Partial.from_arrays(arrays, batch.model.layout)


def _replies(header: Mapping[str, Any], tasks: Mapping[int, Task]) -> Iterator[Reply]:
    for place, position in enumerate(header["positions"]):
        task = tasks[position]
        kind, error = header["errors"].get(str(place), ("", ""))
        metrics = header["metrics"][place]
        yield _reply(
            task.id,
            task.site,
            kind,
            error,
            header["num_examples"][place],
            {name: unplain(value) for name, value in metrics.items()} if metrics else {},
            None,
            header["kinds"][place],
            task.model.id if header["based"][place] and task.model is not None else "",
            b"",
            header["seconds"][place],
            "" if kind else header["fingerprint"],
        )


def _pieces(payload: memoryview) -> Any:
    start = 0

    def take(length: int) -> memoryview:
        nonlocal start
        start += length
        return payload[start - length : start]

    return take


def _summing_json(summing: Summing) -> list[Any]:
    return [summing.rule, summing.update_kind, summing.weights, list(summing.wants)]


def _ref_json(ref: BlobRef | None) -> list[Any] | None:
    return None if ref is None else [ref.scope, ref.manifest.size, ref.manifest.hashes.hex()]


def _read_ref(value: Sequence[Any] | None) -> BlobRef | None:
    return None if value is None else BlobRef(Manifest(value[1], bytes.fromhex(value[2])), value[0])
