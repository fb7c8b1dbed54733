"""What jobs within a group are called."""

import pytest

from hanse.core.errors import PolicyError
from hanse.core.ids import check_job_owner, check_name, new_job_id
from hanse.edge.edge import named


def test_a_groups_job_begins_like_the_one_above_and_belongs_to_the_edges_person() -> None:
    above = new_job_id("anna")
    names = [named(above, number, "admin") for number in (1, 2, 13)]
    assert len({*names, above}) == 4
    for name in names:
        check_name(name)
        check_job_owner(name, "admin")
        assert name.startswith(above[:16])
        with pytest.raises(PolicyError):
            check_job_owner(name, "anna")
    assert named(above, 1, "anna") == above
