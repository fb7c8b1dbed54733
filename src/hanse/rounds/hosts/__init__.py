"""Where strategies think: plans and reductions, whoever runs them.

What is here:

    host         what is asked and answered          local        a host in this process
    planning     a phase's plan, checked             folding      one reduction with one strategy
    items        what is folded, what refused        checking     what an app's own strategy answers
    whole        all updates at once                 by_chunks    reading a store of chunks
    group        a group's run, led from above
"""
