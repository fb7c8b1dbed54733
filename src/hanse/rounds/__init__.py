"""One run, round by round: what is decided, who performs it, where strategies think, and what remains.

Three folders and what they share:

    machine/     every decision about a run; pure          events        what it is told, and what it wants done
    driver/      performs it over the four seams           run_state     where a run stands, as it is written down
    report/      the page about a run                      record, result    what a round was; what a run leaves
    host         the strategy's own code, with folding, by_chunks and group
    performing, telling, outgoing, keeping    what every shell does alike, the simulation as well
    seams, names, site_rows                   the place of a run; very many sites' names and rows
"""
