import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hanse.rounds.record import RoundRecord, role_record
from hanse.rounds.report.measures import format_bytes, format_seconds
from hanse.rounds.report.page import render
from hanse.rounds.report.plots import Line, bar_plot, escape, line_plot, nice_ticks, number, spread, thinned, tick_label

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def records(num_rounds: int, sites: list[str], every: int = 1) -> list[RoundRecord]:
    found = []
    for number_ in range(1, num_rounds + 1):
        loss = {site: 1 / number_ + 0.01 * index for index, site in enumerate(sites)}
        evaluated = number_ % every == 0
        found.append(
            RoundRecord(
                number_,
                folded=tuple(sites),
                metrics={"loss": 1 / number_, "auc": 0.9, "train_loss": 0.9 / number_} if evaluated else {},
                by_site={site: {"loss": loss[site], "auc": 0.9} for site in sites} if evaluated else {},
                seconds_by_phase={"train": 0.02, "evaluate": 0.01},
                bytes={"down": 2000, "up": 1000},
            )
        )
    return found


def page_of(rounds: list[RoundRecord], **options: object) -> str:
    return render(rounds, **{"title": "t", "status": "finished", **options})  # type: ignore[arg-type]


class TestPage:
    @pytest.mark.parametrize("num_sites", [1, 2, 8, 9, 50])
    @pytest.mark.parametrize("num_rounds", [0, 1, 2, 500])
    def test_any_size(self, num_rounds: int, num_sites: int) -> None:
        text = page_of(records(num_rounds, [f"hospital-{i:02}" for i in range(num_sites)]))
        page = Page(text)
        assert page.tags.count("svg") == (4 if num_rounds else 0)
        assert len(text) < 2_500_000

    def test_a_session_of_roles_is_told_by_role(self) -> None:
        told = {
            "guest": {"auc": 0.75, "rows": 1234, "sent_bytes": 1500, "received_bytes": 0, "sent_messages": 7},
            "host": {"rows": 5, "sent_bytes": 0, "received_bytes": 1500},
        }
        record = role_record({"guest": "bank", "host": "<shop>"}, told, 2.0)
        text = page_of([record], facts=[("roles", "guest: bank, host: <shop>")])
        page = Page(text)
        assert re.search(r"Roles\s*guest: bank", page.text)
        assert re.search(r"AUC\s*0.750\s*told by bank", page.text)
        assert re.search(r"bank\s*guest\s*0.750\s*1,234\s*1.5 kB\s*0 B\s*7", page.text)
        assert re.search(r"<shop>\s*host\s*–\s*5\s*0 B", page.text)
        assert "by round" not in text

    def test_nothing_is_loaded_and_nothing_runs(self) -> None:
        page = Page(page_of(records(3, ["a", "b"])))
        assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]
        assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
        text = page_of(records(3, ["a"]))
        assert not re.search(r"https?://|url\(|@import|javascript:", text)

    def test_text_from_sites_stays_text(self) -> None:
        record = RoundRecord(
            1,
            folded=(EVIL, *"abcde"),
            late=(EVIL,),
            failed={EVIL: EVIL},
            metrics={EVIL: 1.0, "loss": 0.5},
            by_site={EVIL: {EVIL: 1.0, "loss": 0.5, "note": EVIL}},
            seconds_by_phase={EVIL: 1.0},
            bytes={"down": 1},
        )
        text = page_of(
            [record, record],
            title=EVIL,
            status=EVIL,
            error=EVIL,
            facts=[(EVIL, EVIL)],
            comparison=[{"name": EVIL, EVIL: 1.0, "accuracy": EVIL}],
        )
        page = Page(text)
        assert not {"script", "img"} & set(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert page.text.count("<script>alert(1)</script>") >= 8

    def test_control_and_direction_marks_are_taken_out(self) -> None:
        assert escape("a\x00b\u202ec\ud800d\n") == "a b c d "
        page_of([RoundRecord(1, folded=("a\ud800",), failed={"b": "\u202e\x1b[31m"})]).encode("utf-8")

    def test_long_text_is_shortened(self) -> None:
        assert len(page_of([RoundRecord(1, failed={"a": "x" * 100_000})])) < 40_000

    def test_missing_and_non_finite_values(self) -> None:
        rounds = [
            RoundRecord(1, metrics={"loss": math.nan, "auc": math.inf}, by_site={"a": {"loss": math.nan}}),
            RoundRecord(2, metrics={"loss": 0.5, "huge": 1e308}, by_site={"b": {"loss": -math.inf, "word": "x"}}),
            RoundRecord(3, metrics={}, by_site={"a": {"loss": 0.25}}, seconds_by_phase={"train": math.nan}),
        ]
        text = page_of(rounds)
        assert "∞" in text
        assert not re.search(r'(points|cx|cy|x|y|height)="[^"]*(nan|inf)', text)
        assert Page(text).tags.count("svg") == 1, "only the loss has a value that can be drawn"

    def test_every_fate_is_told(self) -> None:
        rounds = [RoundRecord(1, folded=("a",), late=("b",), failed={"c": "raised ValueError", "d": "lost"})]
        text = Page(page_of(rounds)).text
        for word in ("raised ValueError", "lost", "b", "Folded", "Late", "Failed"):
            assert word in text

    def test_a_failed_job_says_why(self) -> None:
        text = Page(page_of([], status="failed", error="round 1: quorum of 3 not reached")).text
        assert "quorum of 3 not reached" in text
        assert "No round was completed." in text

    def test_comparison_marks_the_best_and_the_federated(self) -> None:
        rows = [
            {"name": "alone", "accuracy": 0.9, "log_loss": 0.5},
            {"name": "Federated", "accuracy": 0.97, "log_loss": 0.1},
            {"name": "nobody", "accuracy": math.nan},
        ]
        text = page_of([], comparison=rows)
        assert '<tr class="marked"><th scope="row">Federated' in text
        assert "<b>0.970</b>" in text
        assert "<b>0.100</b>" in text
        assert "<b>0.900</b>" not in text

    def test_evaluating_now_and_then_leaves_no_gaps(self) -> None:
        text = page_of(records(20, ["a", "b"], every=5))
        lines = re.findall(r'class="line s0" points="([^"]*)"', text)
        assert [len(line.split()) for line in lines] == [4, 4]

    def test_a_site_that_missed_a_round_has_a_gap(self) -> None:
        rounds = records(6, ["a", "b"])
        del rounds[3].by_site["b"]  # type: ignore[attr-defined]
        lines = re.findall(r'class="line s1" points="([^"]*)"', page_of(rounds))
        assert [len(line.split()) for line in lines] == [3, 2, 3, 2]

    def test_many_sites_are_grey_and_few_bear_names(self) -> None:
        text = page_of(records(10, [f"h{i}" for i in range(30)]))
        assert text.count('class="line grey"') == 60
        assert text.count('class="label grey"') <= 4
        assert text.count('class="label mean"') == 2


class TestPlots:
    @given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
    @example(0.0, 0.0)
    @example(1.0, 1.0 + 1e-15)
    @example(0.0, 5e-324)
    @example(-1e-320, 1e-320)
    def test_ticks_enclose_and_are_few(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        ticks = nice_ticks(low, high)
        step = ticks[1] - ticks[0]
        assert ticks[0] <= low + step * 1e-6
        assert ticks[-1] >= high - step * 1e-6
        assert 2 <= len(ticks) <= 13

    def test_ticks_are_round(self) -> None:
        assert nice_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        assert nice_ticks(0.713, 0.938) == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
        assert [tick_label(tick, 0.05) for tick in (0.7, 0.75, 0.0)] == ["0.70", "0.75", "0"]
        assert tick_label(2_000_000.0, 1e6) == "2e+06"

    def test_axes_of_shares_end_at_one(self) -> None:
        line = Line("a", ((1, 0.97), (2, 0.999)), "mean")
        drawing = line_plot([line], about="x", ceiling=1.0, floor=0.0)
        labels = [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', drawing)]
        assert max(labels) == 1.0

    def test_one_point_is_a_dot(self) -> None:
        drawing = line_plot([Line("a", ((1, 0.5),), "mean")], about="x")
        assert 'class="dot mean"' in drawing
        assert 'class="line' not in drawing

    def test_nothing_to_draw_is_no_plot(self) -> None:
        assert line_plot([Line("a", ((1, math.nan),), "mean")], about="x") == ""
        assert bar_plot([("1", [0.0])], names=["a"], unit="s", about="x") == ""

    @given(st.lists(st.floats(0, 300), max_size=12))
    def test_labels_are_spread(self, places: list[float]) -> None:
        moved = spread(sorted(places), 14.0, 18.0, 260.0)
        assert all(b - a >= 14.0 - 1e-6 for a, b in itertools.pairwise(moved))
        assert all(18.0 - 1e-6 <= place <= 260.0 + 1e-6 for place in moved)

    def test_thinning_keeps_extremes_and_ends(self) -> None:
        points = [(x, math.sin(x / 50)) for x in range(5000)]
        points[1234] = (1234, 99.0)
        points[4000] = (4000, -99.0)
        kept = thinned(points)
        assert len(kept) < 500
        assert {points[0], points[-1], points[1234], points[4000]} <= set(kept)
        assert kept == sorted(kept)
        assert thinned(points[:400]) == points[:400]

    def test_words_for_numbers(self) -> None:
        shown = [number(value) for value in (0.5, -0.25, 0, 1234.5, 1e-7, 1e9, math.nan, -math.inf)]
        assert shown == ["0.500", "-0.250", "0.000", "1234.5", "1.00e-07", "1.00e+09", "–", "−∞"]
        assert [format_bytes(count) for count in (0, 999, 1000, 2.5e9)] == ["0 B", "999 B", "1.0 kB", "2.5 GB"]
        assert [format_seconds(s) for s in (0.0123, 12.34, 245, 7380, math.nan)] == [
            "12 ms", "12.3 s", "4 min 05 s", "2 h 03 min", "–",
        ]  # fmt: skip


def test_what_was_only_measured_in_training_is_called_so() -> None:
    rounds = [RoundRecord(1, folded=("a", "b"), metrics={"train_loss": 0.5}, by_site={"a": {"train_loss": 0.5}})]
    page = Page(render(rounds, title="t", status="finished"))
    assert "Loss in training" in page.text
    assert "held-out" not in page.text
    evaluated = Page(render(records(2, ["a", "b"]), title="t", status="finished"))
    assert "Loss in training" not in evaluated.text
    assert "Thin: each site on its own held-out cases" in evaluated.text


def test_a_cause_that_sites_share_is_told_once() -> None:
    failed = dict.fromkeys((f"site{number}" for number in range(9)), "raised: TypeError") | {"riga": "lost"}
    page = Page(render([RoundRecord(1, failed=failed)], title="t", status="failed"))
    assert page.text.count("raised: TypeError") == 1
    assert "9 sites raised: TypeErrorriga lost" in page.text
