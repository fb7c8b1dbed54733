"""One run, round by round: what is decided, who performs it, where strategies think, and what remains.

Four folders and what they share:

    machine/     every decision about a run; pure          events        what it is told, and what it wants done
    driver/      performs it over the four seams           run_state     where a run stands, as it is written down
    report/      the page about a run                      record, result    what a round was; what a run leaves
    hosts/       where strategies think                    seams         the place of a run
    performing, telling, outgoing, keeping    what every shell does alike, the simulation as well
    names, site_rows, causes                  very many sites: names, rows, causes that are alike
"""
