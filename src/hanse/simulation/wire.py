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
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.tracked import decode_tracked, encode_tracked
from hanse.rounds.host import plain, unplain
from hanse.simulation.engine import Answered, Batch, Summing

Buffer = bytes | memoryview
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
        "config_of": [configs.setdefault(json.dumps(plain(task.config)), len(configs)) for task in batch.tasks],
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
    tasks = [
        Task(
            TaskId(job, component, round_, phase, ordinal),
            site,
            call,
            attempt=attempt,
            config=configs[config],
            model=ref,
            update_kind=header["update_kind"],
            seed=header["seed"],
            allow_nonfinite=header["allow_nonfinite"],
            payload=given,
        )
        for ordinal, site, attempt, call, config, given in columns
    ]
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


def done_frame(answers: Sequence[Answered], partials: Sequence[Partial]) -> tuple[dict[str, Any], list[Buffer]]:
    """What came of a chunk, and the sums over its subtrees."""
    replies = [answer.outcome.reply for answer in answers]
    parts: list[Buffer] = []
    updates, states = [], []
    for answer in answers:
        arrays, state = answer.outcome.arrays, answer.outcome.state
        updates.append(-1 if arrays is None else encoded_size(arrays.layout))
        parts.extend(() if arrays is None else encode_parts(arrays))
        states.append(-1 if state is None else len(state))
        parts.append(state or b"")
    sums = [partial.to_arrays() for partial in partials]
    for arrays in sums:
        parts.extend(encode_parts(arrays))
    header = {
        "positions": [answer.position for answer in answers],
        "summed": [answer.summed for answer in answers],
        "errors": {place: [r.error_kind, r.error] for place, r in enumerate(replies) if r.error_kind},
        "num_examples": [reply.num_examples for reply in replies],
        "metrics": [plain(reply.metrics)["map"] if reply.metrics else {} for reply in replies],
        "kinds": [reply.update_kind for reply in replies],
        "based": [bool(reply.base) for reply in replies],
        "seconds": [reply.seconds for reply in replies],
        "fingerprint": next((reply.fingerprint for reply in replies if reply.fingerprint), ""),
        "updates": updates,
        "states": states,
        "tracked": {
            place: encode_tracked(answer.outcome.tracked).decode()
            for place, answer in enumerate(answers)
            if answer.outcome.tracked
        },
        "sums": [encoded_size(arrays.layout) for arrays in sums],
    }
    return header, parts


def read_done(header: Mapping[str, Any], payload: memoryview, batch: Batch) -> Iterator[Answered | Partial]:
    """Read what `done_frame` wrote of this batch."""
    pieces = _pieces(payload)
    tasks = dict(zip(batch.positions, batch.tasks, strict=True))
    for place, position in enumerate(header["positions"]):
        task = tasks[position]
        size, state_size = header["updates"][place], header["states"][place]
        arrays = None if size < 0 else decode(pieces(size))
        state = None if state_size < 0 else bytes(pieces(state_size))
        kind, error = header["errors"].get(str(place), ("", ""))
        metrics = header["metrics"][place]
        reply = Reply(
            task.id,
            task.site,
            error_kind=kind,
            error=error,
            num_examples=header["num_examples"][place],
            metrics={name: unplain(value) for name, value in metrics.items()} if metrics else {},
            update_kind=header["kinds"][place],
            base=task.model.id if header["based"][place] and task.model is not None else "",
            seconds=header["seconds"][place],
            fingerprint="" if kind else header["fingerprint"],
        )
        tracked = header["tracked"].get(str(place))
        said = () if tracked is None else decode_tracked(tracked.encode())
        yield Answered(position, Outcome(reply, arrays, state, said), header["summed"][place])
    assert batch.model is not None or not header["sums"]
    for size in header["sums"]:
        assert batch.model is not None
        yield Partial.from_arrays(decode(pieces(size)), batch.model.layout)


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
