"""For every test: how many examples hypothesis draws, that Ctrl-C reaches its processes, and which ports are its own.

How long an example takes says nothing on a shared machine, so hypothesis does not judge it, and draws the same examples
each time, so that a run tells of the change and not of its luck. A test that needs more examples than most says so;
`--hypothesis-profile=thorough` draws others, and is for a night.
"""

import os
import signal

from hypothesis import HealthCheck, settings

from hanse.backends.local import ports

settings.register_profile(
    "hanse", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50, derandomize=True
)
settings.register_profile("thorough", settings.get_profile("hanse"), max_examples=2000, derandomize=False)
settings.load_profile("hanse")

# A port is free when it is chosen and taken a second later: processes that run tests side by side choose from ranges
# of their own.
_share = (ports.LAST - ports.FIRST) // 16
ports.FIRST += _share * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16)
ports.LAST = ports.FIRST + _share

# A script's shell starts background jobs with SIGINT ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
