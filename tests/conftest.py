"""For every test: how long an example takes says nothing on a shared machine, so hypothesis does not judge it."""

from hypothesis import HealthCheck, settings

settings.register_profile("hanse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hanse")
