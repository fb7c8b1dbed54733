"""An edge: a group's aggregator, which is a server to its members and a site to the federation above.

edge      one process of both: jobs that come from above are led within the group
members   what the site's agent has in the place of worker processes
person    the edge's own person, who submits within the group
unbroken  submissions that go on when who asked for them is let go
start     the process of `hanse edge start`
"""
