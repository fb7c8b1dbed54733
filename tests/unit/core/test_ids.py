"""Names, task ids, scopes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.errors import ConfigError, PolicyError
from hanse.core.ids import (
    NAME_PATTERN,
    TaskId,
    bundle_scope,
    check_blob_id,
    check_job_owner,
    check_name,
    check_scope,
    job_id_of,
    job_time_ms,
    model_scope,
    new_job_id,
    only_job,
    upload_scope,
)

names = st.from_regex(NAME_PATTERN, fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "hospital-1", "a_b", "x" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a b", "a/b", "..", "a.b", "x" * 64, "é", "a\n", "a\0", "٣"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 63 characters"):
        check_name(name, "site")


@given(names, names, st.integers(0, 10**9), names, st.integers(0, 10**9))
def test_a_task_id_is_read_as_it_was_written(job: str, component: str, round_: int, phase: str, ordinal: int) -> None:
    task = TaskId(job, component, round_, phase, ordinal)
    assert TaskId.parse(str(task)) == task


@pytest.mark.parametrize(
    "text",
    [
        "",
        "j/c/1/train",
        "j/c/1/train/0/x",
        "j/c/-1/train/0",
        "j/c/1/train/x",
        "j/c/1/train/",
        "J/c/1/train/0",
        "j/../1/train/0",
        "j/c/1/Train/0",
        "j/c/01/train/0",
        "j/c/1/train/00",
        "j/c/٣/train/0",
        "j/c/1/train/²",
        "j/c/1/train/0\n",
        "j/c/1/train/" + "9" * 5000,
        "j/c/" + "9" * 5000 + "/train/0",
        "j/c/4294967296/train/0",
    ],
    ids=lambda text: text[:20],
)
def test_other_task_ids_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TaskId.parse(text)


@given(st.text(max_size=40))
def test_what_is_read_is_written_the_same(text: str) -> None:
    """No task has two ids."""
    try:
        task = TaskId.parse(text)
    except ConfigError:
        return
    assert str(task) == text


def test_job_ids_are_names_sort_by_time_and_differ() -> None:
    ids = [new_job_id("anna", now_ms) for now_ms in (0, 1, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1)]
    assert ids == sorted(ids)
    assert [job_time_ms(id) for id in ids] == [0, 1, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1]
    assert [job_time_ms(other) for other in ("", "j1", "u" * 24, ids[2][:-1])] == [0, 0, 0, 0]
    assert all(check_name(id) and len(id) == 24 for id in ids)
    assert len({new_job_id("anna", 5) for _ in range(100)}) == 100
    assert new_job_id() > new_job_id(now_ms=1_700_000_000_000)


def test_a_job_id_is_one_person_s() -> None:
    """Also one that a person thinks of: what counts is that nobody submits under another's."""
    for job in (new_job_id("anna"), job_id_of("j1", "anna"), job_id_of("", "anna")):
        check_job_owner(job, "anna")
        for job_, person in ((job, "bert"), (job, ""), ("x" + job, "anna"), (job[:-1], "anna"), (job + "0", "anna")):
            with pytest.raises(PolicyError, match="made for person"):
                check_job_owner(job_, person)


@pytest.mark.parametrize(
    ("text", "found"),
    [("0k3vaa11", "0k3vaa11"), ("0k3va", "0k3vaa11"), ("bb22", "0k3vbb22"), ("0k3v", "0k3v"), ("none", "none")],
)
def test_enough_of_an_id(text: str, found: str) -> None:
    assert only_job(text, ["0k3vaa11", "0k3vbb22", "0k3v"]) == found  # all of an id goes before beginnings


@pytest.mark.parametrize(
    ("text", "words"), [("0k3v", r"fits 6 jobs; .*: 0k3v0, 0k3v1, 0k3v2, 0k3v3 and 2 more"), ("0k", "4 char")]
)
def test_too_little_of_an_id(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        only_job(text, [f"0k3v{number}" for number in range(6)])


def test_scopes_are_safe_paths_and_sites_have_their_own() -> None:
    task = TaskId("j", "c", 3, "train", 7)
    scopes = [model_scope("j", "c", 3), upload_scope(task, "a"), upload_scope(task, "b"), bundle_scope("j")]
    assert scopes == ["j/c/3/model", "j/c/3/up/a", "j/c/3/up/b", "j/bundle"]
    assert [check_scope(scope) for scope in scopes] == scopes


@pytest.mark.parametrize("scope", ["", "/a", "a/", "a//b", "..", "a/..", "a/./b", "A", "a" * 64, "a/" * 8 + "a", "a\n"])
def test_other_scopes_are_refused(scope: str) -> None:
    with pytest.raises(ConfigError, match="scope"):
        check_scope(scope)


@pytest.mark.parametrize("id", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "../" + "0" * 61])
def test_other_blob_ids_are_refused(id: str) -> None:
    with pytest.raises(ConfigError, match="blob id"):
        check_blob_id(id)
    assert check_blob_id("0123456789abcdef" * 4)
