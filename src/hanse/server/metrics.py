"""What the server counts, for Prometheus. One registry a server, so that two in one process do not mix."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sites = Gauge("hanse_sites_there", "Sites that hold a lease", registry=self.registry)
        self.jobs = Counter("hanse_jobs_ended_total", "Jobs that ended", ["status"], registry=self.registry)
        self.replies = Counter("hanse_replies_total", "Replies by outcome", ["outcome"], registry=self.registry)
        self.rounds = Counter("hanse_rounds_total", "Rounds closed", registry=self.registry)
        self.round_seconds = Histogram(
            "hanse_round_seconds",
            "Seconds of a round, all phases",
            registry=self.registry,
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
        )
        self.bytes = Counter("hanse_bytes_total", "Bytes of models and updates", ["way"], registry=self.registry)
        self.refused = Counter("hanse_callers_refused_total", "Connections refused", registry=self.registry)

    def observe(self, event: dict[str, Any]) -> None:
        """Count what a run tells."""
        if event["what"] == "round":
            record = event["record"]
            self.rounds.inc()
            self.round_seconds.observe(sum(record["seconds_by_phase"].values()))
            for way in ("down", "up"):
                self.bytes.labels(way).inc(record["bytes"].get(way, 0))
        elif event["what"] == "finished":
            self.jobs.labels(event["status"]).inc()
