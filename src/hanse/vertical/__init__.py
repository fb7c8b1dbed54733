"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol."""
