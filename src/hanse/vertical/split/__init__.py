"""Split networks: each party a network over its own columns, the guest one more on top of what they say.

settings, codecs    what all parties must hold alike; how embeddings travel
networks            modules of PyTorch, made alike wherever they are made; the one door to it
protocol            messages, and what they tell whom
guest, host         the role programs of training
scoring, saved      joint scores; a party's part as arrays
models              `hs.vertical.SplitNetwork`
"""
