"""For every test: how many examples hypothesis draws, and that Ctrl-C reaches the processes of a test.

How long an example takes says nothing on a shared machine, so hypothesis does not judge it. A test that needs more
examples than most says so; `--hypothesis-profile=thorough` is for a night.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("hanse", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
settings.register_profile("thorough", settings.get_profile("hanse"), max_examples=2000)
settings.load_profile("hanse")

# A script's shell starts background jobs with SIGINT ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
