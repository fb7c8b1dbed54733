"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol.

psi          private set intersection: who is at both
correlation  Pearson's correlation between two parties' columns, with a dealer
"""
