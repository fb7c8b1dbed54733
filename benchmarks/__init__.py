"""Benchmarks of Hanse: figures with targets, each measured on real work whose result is checked.

One module is one benchmark (`round_latency.py` is `round-latency`); `harness` says what a module
offers. Nothing here is part of the installed package or of the tests, but a smoke run of each is.
"""
