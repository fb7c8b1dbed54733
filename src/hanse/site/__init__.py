"""The site's agent: dials out, asks its owner's policy, runs what was allowed in workers, loses no answer.

start      the process           agent       what comes in, who handles it
deciding   may this run here?    policy      what the owner has allowed
runners    the jobs at hand      jobs        one job's tasks
ending     what is kept of it    replies     answers until the server has them
journal    what must survive     renewal     the next certificate
control    the owner's commands while an agent runs; `owner` does the same without one
"""
