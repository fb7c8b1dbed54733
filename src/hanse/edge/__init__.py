"""An edge: a group's aggregator, which is a server to its members and a site to the federation above.

edge      one process of both: jobs that come from above are led within the group
members   what the site's agent has in the place of worker processes
start     the process of `hanse edge start`
"""
