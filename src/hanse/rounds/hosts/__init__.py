"""Where strategies think: plans and reductions, whoever runs them.

What is here:

    host         what is asked and answered          local        a host in this process
    planning     a phase's plan, checked             folding      one reduction with one strategy
    by_chunks    reading a store of chunks           group        a group's run, led from above
"""
