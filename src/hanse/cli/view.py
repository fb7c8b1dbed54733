"""What is known of a job while it runs, made from its events; pure, so that the screen holds no rule.

Events are those of `rounds.telling`, `server.roles` and `server.jobs`: decision, phase, reply, moved, round, finished;
and `waiting`, which `person.jobs` adds while the server cannot be reached.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hanse.cli.output import clean, number
from hanse.rounds.causes import told

FIRST = ("loss", "accuracy", "auc", "roc_auc", "log_loss")
"""Metrics that come first, where there are several."""
_DOING = {"parameters": "starting", "train": "training", "evaluate": "evaluating", "role": "playing"}
_DONE = {"parameters": "started", "train": "trained", "evaluate": "evaluated", "role": "has played"}
_SAYS = {"accept": "accepts", "hold": "is held by its owner", "refuse": "refuses"}
_DECISIONS = {"accept": "ready", "hold": "held by its owner", "refuse": "refused"}

_COUNTERS = ("_examples", "sent_messages", "sent_bytes", "received_messages", "received_bytes", "turns")
"""Ends of names that are no measures: what is counted of every phase, and of every role's channel."""

_WHOSE = re.compile("^(train|server|guest)_")

Event = Mapping[str, Any]


@dataclass(slots=True)
class SiteView:
    """One site. `busy`: it is at work on something that it was asked."""

    name: str
    state: str = "asked"
    tone: str = "quiet"
    """quiet, busy, good or bad."""
    why: str = ""
    examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each, named as in a round's record."""
    losses: list[float] = field(default_factory=list)

    def set(self, state: str, tone: str, why: str = "") -> None:
        """Change the state."""
        self.state, self.tone, self.why = state, tone, clean(why, 300)


@dataclass(slots=True)
class View:
    """One job. `rounds`: how many there are to be; 0 if not known."""

    title: str
    rounds: int = 0
    job: str = ""
    round: int = 0
    completed: int = 0
    phase: str = "waiting for sites"
    status: str = "waiting"
    error: str = ""
    trouble: str = ""
    sites: dict[str, SiteView] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    plays: bool = False
    """Whether its sites play roles."""
    moved_bytes: int = 0
    """What roles have exchanged in their session."""
    said_first: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was decided or failed, with its cause → the first site that said so."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("finished", "failed", "cancelled")

    def take(self, event: Event) -> None:
        """Learn of one event; an unknown one is passed over."""
        self.trouble = ""
        take = _TAKE.get(str(event.get("what")))
        if take is not None:
            take(self, event)

    def site(self, name: str) -> SiteView:
        """A site's view, made when it is first heard of."""
        name = clean(name, 63)
        if name not in self.sites:
            self.sites[name] = SiteView(name)
            self.sites = dict(sorted(self.sites.items()))
        return self.sites[name]

    def cause(self, kind: str, site: str, reason: str) -> str:
        """A cause as it is told of a site: in full of the first that has it, of the others by that one's name."""
        first = self.said_first.get((kind, reason), site)
        if not reason:
            return ""
        return f": {reason}" if first == site else f", as {first}"

    def measures(self) -> list[str]:
        """Names of metrics to show, the best known first; those in training only where there are no others."""
        found = {name for site in self.sites.values() for name in site.metrics} | set(self.metrics)
        found = {name for name in found if not name.endswith(_COUNTERS)}
        if self.plays:  # the record says it twice: at the site, and with its role before it
            found -= {name for name in found if name.partition("_")[2] in found}
        evaluated = {name for name in found if not name.startswith(("train_", "server_", "parameters_"))}
        chosen = evaluated or {name for name in found if name.startswith("train_")} or found
        base = {name: _WHOSE.sub("", name, count=1) for name in chosen}
        return sorted(chosen, key=lambda name: (FIRST.index(base[name]) if base[name] in FIRST else 99, name))

    def _decision(self, event: Event) -> None:
        decision = str(event["decision"])
        tone = {"accept": "good", "hold": "busy"}.get(decision, "bad")
        self.said_first.setdefault((decision, str(event.get("reason", ""))), str(event["site"]))
        self.site(event["site"]).set(_DECISIONS.get(decision, decision), tone, str(event.get("reason", "")))

    def _phase(self, event: Event) -> None:
        self.status, self.round, self.phase = "running", int(event["round"]), str(event["phase"])
        self.plays, self.moved_bytes = self.phase == "role", 0
        if self.phase == "parameters":
            return  # one site is asked, and the event does not say which
        for site in self.sites.values():
            if site.state not in ("refused", "held by its owner"):
                site.set(_DOING.get(self.phase, self.phase), "busy")

    def _reply(self, event: Event) -> None:
        site, phase = self.site(event["site"]), str(event["phase"])
        if event.get("error"):
            self.said_first.setdefault(("fail", str(event["error"])), str(event["site"]))
            site.set("failed", "bad", str(event["error"]))
            return
        site.set(_DONE.get(phase, f"{phase} done"), "good")
        if phase == "train" or not site.examples:
            site.examples = int(event.get("num_examples") or 0)
        prefix = {"evaluate": "", "role": "", "train": "train_"}.get(phase, f"{phase}_")
        values = {prefix + name: value for name, value in (event.get("metrics") or {}).items() if _is_number(value)}
        site.metrics.update(values)
        if "loss" in values:
            site.losses.append(values["loss"])

    def _round(self, event: Event) -> None:
        record = event["record"]
        if not record["number"]:
            return
        self.round = self.completed = int(record["number"])
        self.status = "running"
        self.metrics = {name: value for name, value in record.get("metrics", {}).items() if _is_number(value)}
        self.seconds += sum(float(each) for each in record.get("seconds_by_phase", {}).values())
        if "loss" in self.metrics:
            self.losses.append(self.metrics["loss"])
        for name, values in record.get("by_site", {}).items():
            self.site(name).metrics.update({key: value for key, value in values.items() if _is_number(value)})
        for name in record.get("folded", ()):
            self.site(name).set("done", "good")
        for name in record.get("late", ()):
            self.site(name).set("late", "bad", "its answer came after the round had closed")
        for name, reason in record.get("failed", {}).items():
            self.site(name).set("failed", "bad", str(reason))

    def _finished(self, event: Event) -> None:
        self.status, self.error = str(event["status"]), clean(str(event.get("error") or ""))
        self.phase = self.status
        if self.rounds and self.status == "finished" and self.completed:
            self.rounds = self.completed  # stopped early
        for site in self.sites.values():
            if site.tone == "busy":
                site.set("idle", "quiet")

    def _moved(self, event: Event) -> None:
        self.moved_bytes = int(event["bytes"])

    def _waiting(self, event: Event) -> None:
        self.trouble = clean(str(event.get("reason", "")), 300)


_TAKE = {
    "decision": View._decision,
    "phase": View._phase,
    "reply": View._reply,
    "round": View._round,
    "finished": View._finished,
    "moved": View._moved,
    "waiting": View._waiting,
}


def line_of(view: View, event: Event, *, every_reply: bool = False) -> str:
    """One event as a line of text; empty if it is not worth one. `view` has taken the event."""
    match event.get("what"):
        case "decision":
            decision = str(event["decision"])
            reason = view.cause(decision, str(event["site"]), str(event.get("reason", "")))
            return clean(f"site {event['site']} {_SAYS.get(decision, decision)}{reason}", 400)
        case "phase" if every_reply:
            return f"round {event['round']}: {clean(str(event['phase']), 40)}, {event['asked']} asked"
        case "reply" if event.get("error"):
            cause = view.cause("fail", str(event["site"]), str(event["error"]))
            if cause.startswith(",") and not every_reply:
                return ""  # the round's line tells whose it was
            return clean(f"round {event['round']}: site {event['site']} failed{cause}", 600)
        case "reply" if every_reply:
            shown = _metrics(event.get("metrics") or {}, list(event.get("metrics") or {}))
            return clean(f"round {event['round']}: {event['site']} {_DONE.get(event['phase'], event['phase'])}{shown}")
        case "round" if event["record"]["number"]:
            record = event["record"]
            total = f"/{view.rounds}" if view.rounds else ""
            seconds = sum(float(each) for each in record.get("seconds_by_phase", {}).values())
            failed = told({str(site): str(why) for site, why in record.get("failed", {}).items()}, len(view.sites))
            failed = f"; {failed}" if failed else ""
            values = view.metrics if not view.plays else _of_all(view)
            shown = _metrics(values, view.measures()[:4])
            sites = len(record.get("folded", ()))
            text = f"round {record['number']:>3}{total}{shown}  {sites} sites  {seconds:.2f} s{failed}"
            return clean(text, 1000).replace("\n", " ")
        case "waiting":
            return f"waiting for the server: {view.trouble}"
        case "finished":
            return ending(view)
    return ""


def ending(view: View) -> str:
    """The last line."""
    count = f"{view.completed} round{'' if view.completed == 1 else 's'}"
    cause = f": {view.error}" if view.error else ""
    return f"{view.status} after {count}{cause}"


def trend(values: list[float], width: int) -> str:
    """The course of a number as a row of small bars; where there are more values than bars, a bar is a mean."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2 or width < 2:
        return ""
    count = min(width, len(known))
    edges = [place * len(known) // count for place in range(count + 1)]
    drawn = [sum(known[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    low, high = min(drawn), max(drawn)
    scale = 7 / (high - low) if high > low else 0.0
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) * scale)] for value in drawn)


def _metrics(values: Mapping[str, Any], names: list[str]) -> str:
    return "".join(f"  {name} {number(values[name])}" for name in names if _is_number(values.get(name)))


def _of_all(view: View) -> dict[str, float]:
    """What the sites of a session told, together; without what they tell each of itself, such as its rows."""
    told: dict[str, set[float]] = {}
    for site in view.sites.values():
        for name, value in site.metrics.items():
            told.setdefault(name, set()).add(value)
    return {name: values.pop() for name, values in told.items() if len(values) == 1}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
