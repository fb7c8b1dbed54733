"""The estimate: by hand for one deployment, and what must hold of any."""

import math

import pytest

from hanse.deploy.aws.cost import CALLS, estimate
from hanse.deploy.aws.settings import read


def of(sites: int, **section: object) -> object:
    return read(
        {"federation": "north", "aws": {"region": "eu-central-1", "sites": [f"s{n}" for n in range(sites)], **section}}
    )


def test_by_hand() -> None:
    found = estimate(of(2), round_s=60, model_bytes=40_000)  # type: ignore[arg-type]  # a Deployment
    lines = {line.what: line for line in found.lines}
    assert lines["SQS SendMessage"].count == 8
    assert lines["SQS SendMessage"].dollars == pytest.approx(8 * 0.40e-6)
    assert lines["SQS ReceiveMessage, empty"].count == 6  # two sites, three polls of 20 s
    # 2·2 collects and a fifth of a step, of 2 GB, for a quarter of a second; and 3 models of 40 kB at 75 MB/s.
    assert lines["Lambda, GB-seconds"].count == pytest.approx(2 * (4 * 0.25 + 0.2 * 0.25 + 3 * 40_000 / 75e6))
    assert "S3 GET, chunks of 8 MiB" not in lines
    assert found.round_dollars == pytest.approx(math.fsum(line.dollars for line in found.lines))
    # A key, a secret, alarms (3 dead-letter queues, 2 lost, 5 functions, 1 failed), 648,000 polls.
    assert found.month_dollars == pytest.approx(1 + 0.4 + 11 * 0.1 + 0.648 * 0.4)


def test_a_larger_model_moves_in_chunks() -> None:
    lines = {line.what: line for line in estimate(of(4), model_bytes=400_000_000).lines}  # type: ignore[arg-type]
    chunks = 48  # 400 MB by 8 MiB, rounded up
    assert lines["S3 GET, chunks of 8 MiB"].count == 2 * 4 * chunks
    assert lines["S3 PUT, chunks of 8 MiB"].count == 5 * chunks
    assert lines["GB to sites that are not on AWS"].dollars == pytest.approx(1.6 * 0.09)


def test_more_sites_cost_more_but_less_each() -> None:
    few, many = estimate(of(2)), estimate(of(20))  # type: ignore[arg-type]
    assert many.round_dollars > few.round_dollars
    assert many.calls_per_site_round < few.calls_per_site_round
    assert all(call.round + call.site > 0 for call in CALLS)
