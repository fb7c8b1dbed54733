"""Equal causes are told once, with the sites that have them."""

from hypothesis import given
from hypothesis import strategies as st

from hanse.rounds.causes import MOST_NAMES, by_cause, once, told

THIRTY = {f"site{number:02d}": "raised: TypeError" for number in range(30)}


def test_one_cause_of_thirty_sites_is_one_line() -> None:
    assert told(THIRTY, 30) == (
        "30 of 30 sites: site00, site01, site02, site03, site04, site05, site06, site07 and 22 more: raised: TypeError"
    )


def test_the_cause_of_most_comes_first_and_a_single_site_by_its_name() -> None:
    found = told({"riga": "lost", "bergen": "killed", "visby": "lost"}, 30)
    assert found == "2 of 30 sites: riga, visby: lost; bergen: killed"
    assert told({"riga": "lost", "visby": "lost"}) == "2 sites: riga, visby: lost"
    assert told({}) == ""


def test_what_is_too_much_is_counted() -> None:
    many = {f"s{number:02d}": f"cause {number}" for number in range(12)}
    assert told(many).endswith("s07: cause 7; other causes at 4 more sites")


def test_beside_each_site_a_reason_stands_once() -> None:
    assert once({"b": "x", "a": "x", "c": "", "d": "", "e": "y"}) == {"b": "x", "a": "as b", "c": "", "d": "", "e": "y"}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from(["lost", "killed", "no reply"]), max_size=40))
def test_every_site_is_in_exactly_one_cause_its_own(reasons: dict[str, str]) -> None:
    causes = by_cause(reasons)
    assert {site: cause.reason for cause in causes for site in cause.sites} == reasons
    assert sum(len(cause.sites) for cause in causes) == len(reasons)
    assert len({cause.reason for cause in causes}) == len(causes)
    for cause in causes:
        assert told(reasons).count(cause.reason) >= 1
        assert all(site in told(reasons) for site in cause.sites[:MOST_NAMES])
