"""Federations on somebody else's machines: documents of what is to be there, and the calls that bring it about."""
