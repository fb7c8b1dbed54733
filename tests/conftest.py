"""For every test: how long an example takes says nothing on a shared machine, so hypothesis does not judge it."""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("hanse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hanse")

# A script's shell starts background jobs with SIGINT ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
