"""Roles over channels: the second way to write a federated program, in which parties exchange named messages.

    protocol    what a protocol declares: roles, messages, Guarantee, Reveals
    party       what a role program holds: `send` and `recv`, checked, ordered, counted, with a deadline
    frames      what travels, and the seam `Channel` that carries it
    local       channels inside one process, over asyncio
    schedule    a seeded scheduler that explores interleavings, with its own clock
    stream      a channel over one asyncio stream, for two processes

Not here: channels relayed by the server and sealed end to end, and resuming from a checkpoint.
"""
