"""One run, round by round: what is decided (`machine`), who performs it (`driver`), where strategies think (`host`).

machine/      every decision about a run; pure           events       what it is told, what it wants
driver/       performs it over the four seams            run_state    where a run stands, as it is written down
report/       the page about a run                       record, result   what a round was; what a run leaves
host          the strategy's own code: plans, reductions; folding, by_chunks, group
performing, telling, outgoing, keeping                   what every shell makes of instructions
"""
