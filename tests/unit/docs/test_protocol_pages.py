"""Each protocol's page names every message and everything that is revealed, in the words of its declaration."""

from pathlib import Path

import pytest

from hanse import vertical
from hanse.channels.protocol import Protocol
from hanse.vertical import alignment, binned, correlation, inflation, label_counts
from hanse.vertical.psi import chase_miao, diffie_hellman, directory
from hanse.vertical.split import protocol as split
from hanse.vertical.split.settings import Settings
from hanse.vertical.transfer import dealer

EXPLANATION = Path(__file__).parents[3] / "docs" / "explanation"
LINEAR, TREES = vertical.LogisticRegression, vertical.Boosting(cross_validate=2)
PAGES: dict[str, list[Protocol]] = {
    "private-set-intersection": [
        chase_miao.PROTOCOL,
        diffie_hellman.PROTOCOL,
        diffie_hellman.COUNTING,
        directory.PUBLISHING,
        directory.ASKING,
        alignment.declared(left=True, linked=True),
    ],
    "vertical-binning": [label_counts.protocol("guest"), label_counts.protocol("host"), binned.CLASSES],
    "vertical-correlation": [correlation.PROTOCOL, inflation.PROTOCOL],
    "vertical-transfer": [dealer.PROTOCOL],
    "vertical-split-networks": [
        *(split.protocol(Settings(compression=each)) for each in ("none", "int8", "topk")),
        split.scoring(Settings()),
    ],
    "vertical-boosting": [TREES.declared(1), TREES.scored(1)],
    "vertical-linear-models": [LINEAR().scored(1)],
    "vertical-dealer": [LINEAR(tolerance=0.1).declared(2)],
    "vertical-dealer-free": [
        LINEAR(protocol="dealer-free").declared(1),
        LINEAR(protocol="own-gradient", tolerance=0.1).declared(1),
    ],
    "vertical-key-holder": [LINEAR(protocol="arbiter", tolerance=0.1).declared(2)],
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_all_that_is_declared(page: str) -> None:
    text = (EXPLANATION / f"{page}.md").read_text()
    declared = {message.name for each in PAGES[page] for message in each.messages}
    declared |= {reveal.what for each in PAGES[page] for reveal in each.reveals}
    assert {word for word in declared if f"`{word}`" not in text} == set()
    if page != "vertical-linear-models":  # whose trainings have pages of their own
        assert {word for word in ("uarantee", "tates", "eveal") if word not in text} == set()


def test_every_page_of_a_vertical_protocol_is_looked_at() -> None:
    assert {path.stem for path in EXPLANATION.glob("vertical-*.md")} == set(PAGES) - {"private-set-intersection"}
