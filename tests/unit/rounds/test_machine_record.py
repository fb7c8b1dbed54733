"""Whatever happens to a run, in whatever order: its record reads back as itself, and a restart changes nothing."""

import json
import random
from typing import Any

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from hanse.core.spec import EarlyStop, RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.events import Cancelled, Checkpoint, Evaluated, PlanFailed, Reduced, ReduceRefused, TimerFired
from tests.unit.rounds.play import Play

SITES = ("a", "b", "c", "d")

specs = st.builds(
    RunSpec,
    rounds=st.integers(1, 4),
    quorum=st.sampled_from((None, 1, 2)),
    deadline_s=st.just(10.0),
    grace_s=st.sampled_from((0.0, 2.0)),
    retries=st.integers(0, 2),
    initial=st.sampled_from(("ask", "given")),
    on_error=st.sampled_from(("continue", "continue", "fail")),
    server_evaluate=st.booleans(),
    stop=st.sampled_from((None, EarlyStop("loss", patience=1))),
)


class Walk(Play):
    """A run on which a seeded walk plays events that might happen, and some that never should."""

    def wander(self, rng: random.Random, seen: list[Checkpoint], rows: dict[int, tuple[str, int]]) -> None:
        state, self.now = self.state, self.now + rng.randint(0, 3000)
        where = (state.round, state.phase_index)
        kind = rng.choice(("reply", "reply", "reply", "forward", "forward", "sites", "timer", "stale", "end"))
        self.instructions = []
        if kind == "reply" and (state.open or state.released):
            ordinal = rng.choice([*state.open, *state.released])
            reason = rng.choice(("", "", "", "raised: X"))
            if ordinal not in rows:
                self.receipt += 1
                rows[ordinal] = (reason, self.receipt)
            (self.fail if rows[ordinal][0] else self.reply)(ordinal)
        elif kind == "sites":
            self.sites(*rng.sample(SITES, rng.randint(0, 4)))
        elif kind == "timer":
            timer = rng.choice(("sites", "starved", "deadline", "grace"))
            self(TimerFired(f"{timer}/{state.round}/{state.phase_index}/{state.extensions}", self.now))
        elif kind == "stale":
            self(Reduced(where[0] - 1, 0, None, (), {}, self.now))
        elif kind == "end" and rng.random() < 0.02:
            self(Cancelled("ada", self.now))
        elif kind == "forward" and state.stage == "planning":
            self._plan_somehow(rng)
        elif kind == "forward" and state.stage == "reducing":
            if rng.random() < 0.2:
                self(ReduceRefused(*where, {rng.choice(list(state.closing)): "nan"}, self.now))
            else:
                self.reduced(loss=rng.random())
        elif kind == "forward" and state.stage == "evaluating":
            self(Evaluated(state.round, {"server_loss": rng.random()}, self.now))
        seen += self.of(Checkpoint)

    def _plan_somehow(self, rng: random.Random) -> None:
        state = self.state
        chosen = state.only or tuple(sorted(rng.sample(state.sites, rng.randint(0, len(state.sites)))))
        if not chosen or rng.random() < 0.1:
            self(PlanFailed(state.round, state.phase_index, "too few", self.now))
            return
        phases = (machine.PARAMETERS,) if state.round == 0 else ("train", "evaluate")
        phase = phases[state.phase_index % len(phases)]
        count = rng.randint(1, len(chosen))
        flight = phase == "train" and rng.random() < 0.5
        self.plan(
            *chosen,
            count=count,
            quorum=rng.randint(1, count),
            phase=phase,
            num_phases=len(phases),
            folds=phase != "evaluate",
            keep_in_flight=flight,
            order="receipt" if flight else "position",
            late=rng.choice(("drop", "carry")),
        )


def walk(
    spec: RunSpec, seed: int, restarts: bool
) -> tuple[dict[str, Any], list[Checkpoint], dict[int, tuple[str, int]]]:
    rng = random.Random(seed)
    play, seen, rows = Walk(spec), list[Checkpoint](), dict[int, tuple[str, int]]()
    play.start("a", "b", "c", "d")
    for number in range(120):
        play.wander(random.Random(f"{seed} {number}"), seen, rows)
        value = run_state.encode(play.state)
        text = json.dumps(value)
        assert json.dumps(run_state.encode(run_state.decode(json.loads(text)))) == text
        if restarts and rng.random() < 0.2 and not play.state.over:
            answers = tuple((ordinal, reason, receipt) for ordinal, (reason, receipt) in rows.items())
            play.restart(*play.state.sites, rows=answers)
            seen += play.of(Checkpoint)
        if play.state.over:
            break
    return run_state.encode(play.state), seen, rows


@settings(max_examples=200, deadline=None)
@for_all(specs, st.integers(0, 10**9), st.booleans())
def test_a_record_reads_back_as_itself_and_no_fate_is_told_twice(spec: RunSpec, seed: int, restarts: bool) -> None:
    value, seen, rows = walk(spec, seed, restarts)
    told = [ordinal for checkpoint in seen for ordinal in checkpoint.fates]
    assert len(told) == len(set(told))
    assert set(told) <= set(rows)
    rounds = [checkpoint.round for checkpoint in seen]
    assert rounds == list(range(rounds[0], rounds[0] + len(rounds))) if rounds else True
    if value["status"] in run_state.OVER:
        state = run_state.decode(value)
        remembered = {*state.released, *told}
        assert {ordinal for ordinal in rows if ordinal not in remembered} == set()


@settings(max_examples=100, deadline=None)
@for_all(specs, st.integers(0, 10**9))
def test_a_copy_does_not_change_with_its_origin(spec: RunSpec, seed: int) -> None:
    play = Walk(spec)
    play.start("a", "b", "c")
    before = run_state.encode(run_state.copy(play.state))
    twin = run_state.copy(play.state)
    for number in range(20):
        play.wander(random.Random(f"{seed} {number}"), [], {})
    assert run_state.encode(twin) == before
