"""The driver: performs what the round machine instructs, over the seams. It holds no rule of its own.

A `Run` stays with one component in the server's process, or in a test over real seams; a `visit` looks at one where
nothing stays in memory. Both consist of the same parts:

    run, visit   stay with a run, or look once       driving     what every part works with
    turns        one turn: events in, one write, what others can see out
    asking       plans, tasks, releases              reducing    reductions and evaluations
    receiving    replies become rows                 cleaning    what `leftovers` says may go is deleted
    writing      the run record and the rows         noting      the same, where nobody stays
    standing     what all of them know of the run    traffic     the bytes that a round has moved
    life         whether the driving goes on         patience    what is done when a disk refuses
    clock        time, and the timers of one run
"""
