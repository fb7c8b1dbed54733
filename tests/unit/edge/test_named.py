"""What jobs within a group are called."""

import pytest

from hanse.core.errors import PolicyError
from hanse.core.ids import check_job_owner, check_name, job_id_of, new_job_id
from hanse.edge.edge import NAME_CHARACTERS, named, shown


def test_a_groups_job_begins_like_the_one_above_and_belongs_to_the_edges_person() -> None:
    above = new_job_id("anna")
    names = [named(above, number, "admin") for number in (1, 2, 13)]
    assert len({*names, above}) == 4
    for name in names:
        check_name(name)
        check_job_owner(name, "admin")
        assert name.startswith(above)
        with pytest.raises(PolicyError):
            check_job_owner(name, "anna")


def test_jobs_of_two_people_above_are_two_within_the_group() -> None:
    """Who sees the id of a job may give one of their own the same beginning."""
    above = new_job_id("anna")
    other = job_id_of(above[:16], "mallory")
    check_job_owner(other, "mallory")
    names = {named(job, number, "admin") for job in (above, other) for number in (1, 2, 3)}
    assert len(names) == 6


def test_who_submitted_a_job_above_is_shown_however_long_its_name_is() -> None:
    assert shown("trees", "anna", "nordic") == "trees (anna of nordic)"
    posing = shown("trees (chief of nordic)".ljust(200), "mallory", "nordic")
    assert posing.endswith(" (mallory of nordic)")
    assert len(posing) == NAME_CHARACTERS
    assert shown("trees", "m" * 63, "n" * 63).startswith(f" ({'m' * 63} of ")
