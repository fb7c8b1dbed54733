"""The site's agent: dials out, asks its owner's policy, runs what was allowed in workers, loses no answer.

start      the process           agent       what comes in, who handles it
jobs       one job's tasks       replies     answers until the server has them
policy     may this run here?    journal     what must survive a crash
control    the owner's commands while an agent runs; `owner` does the same without one
"""
