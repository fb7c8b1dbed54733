"""Roles over channels: the second way to write a federated program, in which parties exchange named messages.

    protocol    what a protocol declares: roles, messages, Guarantee, Reveals
    party       what a role program holds: `send` and `recv`, checked, ordered, counted, with a deadline
    frames      what travels, and the seam `Channel` that carries it
    local       channels inside one process, over asyncio
    schedule    a seeded scheduler that explores interleavings, with its own clock
    stream      a channel over one socket: two processes, or a worker and its agent
    spec        who plays what in a component, as plain data
    spending    queries that other sites have used up here
    secret      random bytes that only one site knows
    app         `RoleApp`: a protocol and a program for each role

Not here: the channel through the server (`hanse.site.relay`), and resuming within a session.
"""
