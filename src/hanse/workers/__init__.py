"""Processes in which user code runs, and nothing else does.

    agent or server ── Launcher (a clean interpreter, warm) ── Worker, Worker, …      one socket each

The launcher holds no key, no connection and no thread; a worker is a fork of it (see `launcher`). What user code
may see is decided by `isolation`; what it may load by `datasets`. Importing this package imports nothing heavy, so
that `Launcher.start` can be the first thing a process does.
"""
