"""The benchmark `psi` at its smallest: two processes, a checked result, the agreed names."""

import pytest

from benchmarks import psi


def test_smoke() -> None:
    pytest.importorskip("gmpy2", reason="the fallback needs gmpy2 (extra `vertical`)")
    rows = list(psi.run(smoke=True))
    assert {row.bench for row in rows} == {"psi"}
    for case in ("default", "fallback"):
        metrics = {row.metric: row.value for row in rows if row.case == case}
        assert list(metrics) == ["core_s_both", "wall_s", "peak_mb", "messages", "sent_mb", "link_s"]
        assert all(value > 0 for value in metrics.values())
        assert metrics["link_s"] >= metrics["sent_mb"] / 12.5
