"""Federations on somebody else's machines: what is to be there, written as documents, and the calls that bring it about."""
