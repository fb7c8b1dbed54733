"""A simulated run in a folder: it goes on after a crash or a Ctrl-C, with the bits of one that was not stopped.

    checkpoint       8 bytes with the length of the JSON, JSON, arrays in canonical safetensors, site states end to end
    rounds.jsonl     one line a round, appended

The first is replaced in one step after a round; lines beyond the rounds that it counts are overwritten. It holds the
machine's state as a federation's run record does, what is at work in virtual time, and updates that wait. Reading it
runs no code.
"""

import heapq
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanse.clients.fingerprint import fingerprint
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode_parts, encoded_size
from hanse.core.errors import CodecError, ConfigError, HanseError
from hanse.core.ids import TaskId
from hanse.core.records import Reply
from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.events import BlobKey, Resumed, Send
from hanse.rounds.keeping import decode_asks, encode_asks
from hanse.rounds.record import RoundRecord
from hanse.simulation.engine import Engine
from hanse.simulation.shell import Flight, Shell

VERSION = 1
FILE, ROUNDS = "checkpoint", "rounds.jsonl"


class Checkpoints:
    """A folder that a run is kept in.

    Args:
        every: rounds between two checkpoints; the last round always makes one.

    Raises:
        ConfigError: there is a run in the folder and `resume` does not say so, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, resume: bool, every: int = 1) -> None:
        if type(every) is not int or every < 1:
            raise ConfigError(f"checkpoint_every: expected a whole number from 1, found {every!r}")
        self._folder = Path(folder)
        self._every = every
        self._kept_rounds = self._rounds_bytes = 0
        if not resume and self.exists:
            raise ConfigError(
                f"checkpoint: found a run in {self._folder}; write resume=True to go on with it, or take another folder"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"checkpoint: expected a folder that can be written, {self._folder}: {error}") from None

    @property
    def exists(self) -> bool:
        """Whether there is a run to go on with."""
        return (self._folder / FILE).exists()

    # ---- writing ----

    def save(self, shell: Shell, engine: Engine) -> None:
        """Keep the run as it is at the end of a round."""
        if not shell.state.over and len(shell.records) % self._every:
            return
        with (self._folder / ROUNDS).open("r+b" if self._kept_rounds else "wb") as file:
            file.seek(self._rounds_bytes if self._kept_rounds else 0)
            for record in shell.records[self._kept_rounds :]:
                file.write(json.dumps(record.to_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n")
            file.truncate()
            self._rounds_bytes = file.tell()
        self._kept_rounds = len(shell.records)
        facts, arrays, states = _taken(shell)
        facts |= {"engine": {"name": engine.name, "exact": engine.exact, "settings": dict(engine.settings)}}
        text = json.dumps({"v": VERSION, "rounds": self._kept_rounds, **facts}, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % 64)
        draft = self._folder / f".{FILE}.new"
        with draft.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for part in encode_parts(arrays):
                out.write(part)
            for state in states:
                out.write(state)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, self._folder / FILE)

    # ---- reading ----

    def load(self) -> "Kept":
        """Read what `save` wrote.

        Raises:
            ConfigError: it is not that, of another version, or from another fingerprint.
        """
        content = memoryview((self._folder / FILE).read_bytes())
        length = int.from_bytes(content[:8], "little")
        try:
            facts = json.loads(bytes(content[8 : 8 + length]))
            if facts["v"] != VERSION:
                raise CodecError(f"expected version {VERSION}, found {str(facts['v'])[:20]}")
            size = facts["arrays_bytes"]
            arrays = decode(content[8 + length : 8 + length + size])
            with (self._folder / ROUNDS).open("rb") as file:
                records = [RoundRecord.from_json(json.loads(file.readline())) for _ in range(facts["rounds"])]
                self._rounds_bytes = file.tell()
            self._kept_rounds = facts["rounds"]
            return Kept(facts, arrays, content[8 + length + size :], records)
        except (HanseError, ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(f"checkpoint: {self._folder} cannot be read: {type(error).__name__}: {error}") from None


class Kept:
    """A run as it was kept."""

    def __init__(
        self, facts: Mapping[str, Any], arrays: Arrays, states: memoryview, records: list[RoundRecord]
    ) -> None:
        self._facts = facts
        self._arrays = arrays
        self._states = states
        self._records = records
        self._is_reopened = False
        self.state = run_state.decode(facts["state"])

    @property
    def engine(self) -> Mapping[str, Any]:
        """Its `name`, whether it was `exact`, and its `settings`."""
        engine: Mapping[str, Any] = self._facts["engine"]
        return engine

    def check(self, spec: RunSpec, *, virtual: bool, mixed_hardware: bool) -> None:
        """Whether this is the run that is asked for; takes a larger number of rounds over, and is reopened for them.

        Raises:
            ConfigError: what differs.
        """
        mine, theirs = spec.to_json(), self.state.spec.to_json()
        is_done = self.state.status == "finished" and not machine.has_stopped(self.state)
        more = spec.rounds > self.state.round if is_done else not self.state.over and spec.rounds >= self.state.round
        other = [name for name in mine if mine[name] != theirs[name] and not (name == "rounds" and more)]
        if other:
            name = other[0]
            raise ConfigError(
                f"checkpoint: expected the run that was begun, with {name}={theirs[name]!r}, found {mine[name]!r}"[:300]
            )
        if virtual != self._facts["virtual"]:
            raise ConfigError(
                "checkpoint: expected durations and availability "
                f"{'as' if self._facts['virtual'] else 'to be left out as'} when the run was begun"
            )
        found = self._facts["fingerprint"]
        if found != fingerprint() and not mixed_hardware:
            raise ConfigError(
                f"checkpoint: expected the numerics fingerprint {found}, found {fingerprint()}; mixed_hardware=True "
                "goes on with bits that are not comparable"
            )
        self.state.spec = spec
        self._is_reopened = is_done and more
        if self._is_reopened:
            machine.reopen(self.state)

    @property
    def mixed(self) -> bool:
        """Whether it was computed, or is now, by workers of different fingerprints."""
        return bool(self._facts["mixed"]) or self._facts["fingerprint"] != fingerprint()

    def restore(self, shell: Shell) -> None:
        """Put a fresh shell where this run was, and let it go on."""
        facts = self._facts
        keys: list[BlobKey] = [(scope, blob) for scope, blob in facts["models"]]
        for place, key in enumerate(keys):
            shell.models.keep(int(key[0].split("/")[2]), self._named(f"m{place}"))
            if key not in shell.models.arrays:
                raise ConfigError("checkpoint: a model that is not what its name says")
        shell.records.extend(self._records)
        shell.now_ms = facts["now_ms"]
        shell.receipt = facts["receipt"]
        shell.update_kind = facts["update_kind"]
        shell.timers.update({kind: (at, name) for kind, at, name in facts["timers"]})
        shell.losses.extend((at, site, ordinal) for at, site, ordinal in facts["losses"])
        shell.lost.update(facts["lost"])
        for print_, sites in facts["fingerprints"].items():
            shell.fingerprints.update(dict.fromkeys(sites, print_))
        start = 0
        for site, length in facts["site_states"]:
            shell.site_states[site] = bytes(self._states[start : start + length])
            start += length
        asks = decode_asks(facts["asks"])
        flights = () if self._is_reopened else facts["flights"]  # nobody waits for those of a run that was over
        for ordinal, site, round_, phase, position, attempt, call, deadline, model, arrives in flights:
            task = TaskId(self.state.job, self.state.component, round_, phase, ordinal)
            send = Send(task, site, position, attempt, call, deadline)
            arrives_ms = float("inf") if arrives is None else arrives
            shell.flights[ordinal] = Flight(send, asks[ordinal], None if model is None else keys[model], arrives_ms)
            if arrives is not None:
                heapq.heappush(shell.arrivals, (arrives_ms, ordinal))
        rows = []
        for ordinal, packed, receipt, has_update in facts["replies"]:
            reply = Reply.unpack(bytes.fromhex(packed))
            shell.replies[ordinal] = reply
            reason = f"{reply.error_kind}: {reply.error}" if reply.error else reply.error_kind
            rows.append((ordinal, reason, receipt))
            if has_update:
                shell.updates.hold(ordinal, self._named(f"u{ordinal}"))
        shell.go_on(Resumed(tuple(rows), (), facts["now_ms"]))

    def _named(self, prefix: str) -> Arrays:
        start = f"{prefix}/"
        return Arrays((name[len(start) :], array) for name, array in self._arrays.items() if name.startswith(start))


def _taken(shell: Shell) -> tuple[dict[str, Any], Arrays, list[bytes]]:
    """Facts, arrays and site states of a shell between two rounds."""
    state = shell.state
    keys = list(shell.models.arrays)
    arrays: dict[str, Any] = {}
    for place, key in enumerate(keys):
        arrays.update({f"m{place}/{name}": array for name, array in shell.models.arrays[key].items()})
    slots = {**state.open, **state.carried}
    answered = {ordinal: reply for ordinal, reply in shell.replies.items() if ordinal in slots}
    for ordinal in answered:
        held = shell.updates.held(ordinal)
        if held is not None:
            arrays.update({f"u{ordinal}/{name}": array for name, array in held.items()})
    together = Arrays(arrays)
    by_print: dict[str, list[str]] = {}
    for site, print_ in shell.fingerprints.items():
        by_print.setdefault(print_, []).append(site)
    facts = {
        "state": run_state.encode(state),
        "virtual": shell.virtual,
        "fingerprint": fingerprint(),
        "mixed": shell.is_mixed,
        "now_ms": shell.now_ms,
        "receipt": shell.receipt,
        "update_kind": shell.update_kind,
        "models": [list(key) for key in keys],
        "timers": [[kind, at, name] for kind, (at, name) in shell.timers.items()],
        "losses": [list(loss) for loss in shell.losses],
        "lost": sorted(shell.lost),
        "fingerprints": by_print,
        "site_states": [[site, len(content)] for site, content in shell.site_states.items()],
        "asks": encode_asks({ordinal: flight.ask for ordinal, flight in shell.flights.items()}),
        "flights": [list(row) for row in _flights(shell, keys)],
        "replies": [
            [ordinal, reply.pack().hex(), slots[ordinal].receipt, shell.updates.held(ordinal) is not None]
            for ordinal, reply in answered.items()
        ],
        "arrays_bytes": encoded_size(together.layout),
    }
    return facts, together, list(shell.site_states.values())


def _flights(shell: Shell, keys: list[BlobKey]) -> Iterator[tuple[Any, ...]]:
    for ordinal, (send, _, model, arrives_ms) in shell.flights.items():
        place = None if model is None else keys.index(model)
        arrives = None if arrives_ms == float("inf") else arrives_ms
        task = send.task
        yield (
            ordinal, send.site, task.round, task.phase, send.position, send.attempt, send.call, send.deadline_ms,
            place, arrives,
        )  # fmt: skip
