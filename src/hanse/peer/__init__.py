"""Training without a server: every peer is a role that exchanges vectors with others over channels.

    graph       who is joined to whom, and the weights with which neighbours are averaged
    gossip      neighbours average with each other: D-PSGD
    choco       the same with compressed messages: CHOCO-SGD
    ring        all peers get the one mean, by an all-reduce around a ring
    cyclic      one model goes from peer to peer
    topologies  which of them, as plain values

Programs know a `Party` and a `Trainer`, and not what carries the messages. Nothing is hidden: who receives a vector
sees its sender's model. Not here: running an app's client side (`hanse.clients.peers`).
"""
