"""From a runtime's events to records: what the aggregator's run says, and, where all sites are virtual, theirs.

Events are those of `rounds`: dicts with `what` (`reply`, `round`, `finished`), as a person follows them. Pure but for
the time, which an event that was kept brings along.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hanse.core.spec import RunSpec
from hanse.tracking.records import AGGREGATOR, Record, Run, begin, end, of_reply, of_round, of_tracked
from hanse.tracking.tracker import Tracker, Tracking

MOST_SITES = 64
"""A simulation of more sites than this has one run, the aggregator's, with each site's metrics by name left out."""
Event = Mapping[str, Any]


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """A run's settings as parameters: what is a number or a text, and what the strategy is told, by name."""
    nested = {"compression": spec.compression, "selection": spec.selection, "lr": spec.lr}
    plain = {name: value for name, value in spec.to_json().items() if name not in (*nested, "params", "stop")}
    found = {name: value for name, value in plain.items() if value is not None}
    found |= {f"strategy.{name}": value for name, value in spec.params.items()}
    for name, values in nested.items():
        found |= {f"{name}.{key}": value for key, value in (values or {}).items()}
    if spec.stop is not None:
        found |= {"stop.metric": spec.stop.metric, "stop.patience": spec.stop.patience}
    return found


class Recorder:
    """Turns one job's events into records.

    Args:
        sites: sites that have runs here too, since they live in this process; none where they are real.
        about: further parameters of the aggregator's run.
    """

    def __init__(self, tracker: Tracker, about: Mapping[str, Any], sites: Sequence[str] = ()) -> None:
        self._tracker = tracker
        self._about = about
        self._few = len(sites) <= MOST_SITES
        self._sites = frozenset(sites) if self._few else frozenset()
        self._begun: set[str] = set()
        self._replies: Counter[str] = Counter()

    def take(self, event: Event) -> list[Record]:
        """The records of one event."""
        at_ms = int(event.get("at_s", time.time()) * 1000)
        return list(self._records(event, at_ms))

    def _records(self, event: Event, at_ms: int) -> Iterator[Record]:
        match event["what"]:
            case "reply" if event["site"] in self._sites and not event["error"]:
                yield from self._of_reply(event, at_ms)
            case "round" if event["record"]["number"] > 0:
                run = self._run(event["job"], AGGREGATOR)
                yield from self._begin(run, at_ms, {"role": AGGREGATOR, **self._about})
                record = event["record"] if self._few else {**event["record"], "by_site": {}}
                yield of_round(run, at_ms, record)
            case "finished":
                run = self._run(event["job"], AGGREGATOR)
                yield from self._begin(run, at_ms, {"role": AGGREGATOR, **self._about})
                for who in sorted(self._begun - {AGGREGATOR}):
                    yield end(self._run(event["job"], who), at_ms, event["status"])
                yield end(run, at_ms, event["status"])
            case _:
                pass

    def _of_reply(self, event: Event, at_ms: int) -> Iterator[Record]:
        run = self._run(event["job"], event["site"])
        about = {"role": "site", "site": event["site"], **self._about}
        yield from self._begin(run, at_ms, about)
        place = f"{event['round']}/{event['phase']}"
        counted = f"{event['site']}/{place}"
        self._replies[counted] += 1
        yield of_reply(
            run,
            at_ms,
            key=f"reply/{place}/{self._replies[counted]}",
            round_=event["round"],
            phase=event["phase"],
            metrics=event["metrics"],
            num_examples=event["num_examples"],
            seconds=event["seconds"],
        )
        if event.get("tracked"):
            key = f"tracked/{place}/{self._replies[counted]}"
            yield of_tracked(run, at_ms, key=key, round_=event["round"], tracked=event["tracked"])

    def _begin(self, run: Run, at_ms: int, about: Mapping[str, Any]) -> Iterator[Record]:
        if run.who not in self._begun:
            self._begun.add(run.who)
            yield begin(run, at_ms, {**about, **self._tracker.params})

    def _run(self, job: str, who: str) -> Run:
        return Run(self._tracker.prefix, job, who)


def follower(tracking: Tracking, about: Mapping[str, Any], sites: Sequence[str] = ()) -> Callable[[Event], None]:
    """What a runtime calls with each event of one job."""
    recorder = Recorder(tracking.tracker, about, sites)
    return lambda event: tracking.add(recorder.take(event))
