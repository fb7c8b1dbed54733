"""The round machine: every decision about a run, and nothing else.

`step(state, event) -> (state, instructions)` is deterministic and does no I/O: no socket, disk, clock or thread. It
takes ownership of the state that it is given and returns it changed (copying a cohort for every reply would
make folding quadratic); whoever wants to keep an old state encodes it first.

    handling       what each event means        closing      whether the open phase closes, and with whom
    members        who is in a phase            ending       of a round, and of the run
    answers        that a reply is there        resuming     what is left to be done
    instructing    what is to be done, with deterministic ids

The life of a run:

    waiting ──enough sites──▶ planning ──Planned──▶ open ──close──▶ reducing ──Reduced──▶ next phase: planning
                                 ▲  │                 │                │
                     SitesChanged│  │PlanFailed       │too few         │ReduceRefused, too few left
                              starved◀────────────────┘◀───────────────┘
    the last phase of a round ──▶ (evaluating ──Evaluated──▶) checkpoint ──▶ next round, or finished
    anywhere ──▶ failed (with its cause), cancelled

What must survive is what `encode` writes; `revision` counts its changes, so a shell writes when it has moved, and
replies (which are ledger rows) do not move it, but for the one that begins the grace. What is left to do is a function
of the state: `pending`; what a shell that keeps nothing between two looks must wait for, too: `timers`.

An open phase may be planned once more, for tasks on top of those that are out: to be *extended* where it misses its
quorum, or to be *refilled* where it keeps a number of sites at work.

The fates of a reply: *folded* (named by the close), *late* (its phase was closed without it), *refused* (it did not
verify while it was read), *failed* (the site said so). Each is reported once, by name, in a `Checkpoint`.
"""

from hanse.rounds.machine.answers import expects
from hanse.rounds.machine.ending import has_stopped, reopen
from hanse.rounds.machine.handling import begin, step
from hanse.rounds.machine.instructing import RELEASED_ROUNDS
from hanse.rounds.machine.members import PARAMETERS, expect
from hanse.rounds.machine.resuming import pending, timers

__all__ = [
    "PARAMETERS",
    "RELEASED_ROUNDS",
    "begin",
    "expect",
    "expects",
    "has_stopped",
    "pending",
    "reopen",
    "step",
    "timers",
]
