"""What every ledger promises: `hanse.core.seams.Ledger`, sentence by sentence."""

import asyncio
import random

import pytest

from hanse.core.errors import ConfigError, NotFoundError, TooLargeError
from hanse.core.seams import MAX_RECORD_BYTES, Ledger
from tests.conformance.places import Place


async def test_create_writes_a_new_record_of_version_one(ledger: Ledger) -> None:
    assert await ledger.create("job/a", b"first") is True
    assert await ledger.get("job/a") == (b"first", 1)


async def test_create_changes_nothing_when_the_key_exists(ledger: Ledger) -> None:
    await ledger.create("job/a", b"first")
    assert await ledger.create("job/a", b"second") is False
    assert await ledger.get("job/a") == (b"first", 1)


async def test_create_many_answers_row_by_row(ledger: Ledger) -> None:
    await ledger.create("b", b"old")
    assert await ledger.create_many([("a", b"1"), ("b", b"2"), ("c", b"3"), ("a", b"4")]) == [True, False, True, False]
    assert [row[:2] for row in await ledger.query("")] == [("a", b"1"), ("b", b"old"), ("c", b"3")]
    assert await ledger.create_many([]) == []


async def test_get_of_an_unknown_key(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError):
        await ledger.get("nothing")


async def test_compare_and_set_counts_versions_up(ledger: Ledger) -> None:
    await ledger.create("k", b"1")
    assert await ledger.compare_and_set("k", b"2", 1) is True
    assert await ledger.compare_and_set("k", b"3", 2) is True
    assert await ledger.get("k") == (b"3", 3)


@pytest.mark.parametrize("version", [0, 1, 3, -1])
async def test_compare_and_set_changes_nothing_at_another_version(ledger: Ledger, version: int) -> None:
    await ledger.create("k", b"1")
    await ledger.compare_and_set("k", b"2", 1)
    assert await ledger.compare_and_set("k", b"lost", version) is False
    assert await ledger.get("k") == (b"2", 2)


async def test_compare_and_set_does_not_create(ledger: Ledger) -> None:
    for version in (0, 1):
        assert await ledger.compare_and_set("new", b"1", version) is False
    with pytest.raises(NotFoundError):
        await ledger.get("new")


async def test_of_concurrent_compare_and_sets_one_wins(ledger: Ledger) -> None:
    await ledger.create("run", b"open")
    for version in range(1, 6):
        won = await asyncio.gather(
            *(ledger.compare_and_set("run", f"{version}/{n}".encode(), version) for n in range(10))
        )
        assert sum(won) == 1
        assert await ledger.get("run") == (f"{version}/{won.index(True)}".encode(), version + 1)


async def test_of_concurrent_creates_one_wins_each_key(ledger: Ledger) -> None:
    keys = [f"k{n % 5}" for n in range(50)]
    single = [ledger.create(key, f"{n}".encode()) for n, key in enumerate(keys)]
    many = [ledger.create_many([(f"k{n}", b"m"), (f"m{n}", b"m")]) for n in range(5)]
    answers = await asyncio.gather(*single, *many)
    singles, pairs = answers[:50], answers[50:]
    for n in range(5):
        winners = [index for index in range(50) if keys[index] == f"k{n}" and singles[index]]
        assert len(winners) + sum(pair[0] for pair in [pairs[n]] if isinstance(pair, list)) == 1
    assert all(isinstance(pair, list) and pair[1] for pair in pairs)


async def test_a_refused_write_harms_no_neighbour(ledger: Ledger) -> None:
    too_long = b"x" * (MAX_RECORD_BYTES + 1)
    good = [ledger.create(f"good/{n}", b"1") for n in range(5)]
    answers = await asyncio.gather(*good, ledger.create("bad", too_long), return_exceptions=True)
    assert answers[:5] == [True] * 5
    assert isinstance(answers[5], TooLargeError)


async def test_what_is_acknowledged_is_read(ledger: Ledger) -> None:
    await ledger.create("k", b"0")
    for version in range(1, 50):
        assert await ledger.compare_and_set("k", str(version).encode(), version)
        assert await ledger.get("k") == (str(version).encode(), version + 1)
        assert await ledger.query("k") == [("k", str(version).encode(), version + 1)]


async def test_the_limit_is_64_kib(ledger: Ledger) -> None:
    largest = bytes(MAX_RECORD_BYTES)
    assert await ledger.create("k", largest)
    assert await ledger.compare_and_set("k", largest, 1)
    for refused in (ledger.create("l", largest + b"1"), ledger.compare_and_set("k", largest + b"1", 2)):
        with pytest.raises(TooLargeError):
            await refused
    with pytest.raises(TooLargeError):
        await ledger.create_many([("m", b""), ("n", largest + b"1")])
    assert [key for key, _, _ in await ledger.query("")] == ["k"]


@pytest.mark.parametrize("key", ["", "x" * 2000, "\ud800"])
async def test_impossible_keys_are_refused(ledger: Ledger, key: str) -> None:
    with pytest.raises(ConfigError):
        await ledger.create(key, b"")


async def test_values_are_any_bytes(ledger: Ledger) -> None:
    for n, value in enumerate((b"", b"\0", bytes(range(256)))):
        await ledger.create(f"v{n}", value)
        assert await ledger.get(f"v{n}") == (value, 1)


AWKWARD = [
    "a",
    "a/",
    "a/1",
    "a/10",
    "a/2",
    "a\x00",
    "a-",
    "ab",
    "A",
    "é",
    "z",
    "Ω",
    "\uffff",
    "😀",
    "%",
    "_",
    "a%",
    "a\x7f",
]


async def test_query_is_in_order_of_the_keys_bytes(ledger: Ledger) -> None:
    shuffled = random.Random(1).sample(AWKWARD, len(AWKWARD))
    await ledger.create_many([(key, b"") for key in shuffled[:9]])
    for key in shuffled[9:]:
        await ledger.create(key, b"")
    found = [key for key, _, _ in await ledger.query("")]
    assert found == sorted(AWKWARD, key=str.encode)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/1", "é", "%", "_", "nothing", "\uffff", "😀"])
async def test_query_takes_the_prefix_literally(ledger: Ledger, prefix: str) -> None:
    await ledger.create_many([(key, key.encode()) for key in AWKWARD])
    expected = sorted((key for key in AWKWARD if key.startswith(prefix)), key=str.encode)
    assert await ledger.query(prefix) == [(key, key.encode(), 1) for key in expected]


async def test_pages_by_after(ledger: Ledger) -> None:
    rows = [(f"job/{n:04}", str(n).encode()) for n in range(25)]
    await ledger.create_many([*rows, ("job0", b""), ("jo", b"")])
    found: list[tuple[str, bytes, int]] = []
    after: str | None = None
    while page := await ledger.query("job/", after, limit=7):
        assert len(page) <= 7
        found += page
        after = page[-1][0]
    assert found == [(key, value, 1) for key, value in rows]
    assert await ledger.query("job/", "a", limit=1) == [("job/0000", b"0", 1)]
    assert await ledger.query("job/", "job/0003x", limit=1) == [("job/0004", b"4", 1)]
    assert await ledger.query("job/", "z") == []
    assert await ledger.query("job/", limit=0) == []


async def test_records_are_forgotten_by_key(ledger: Ledger) -> None:
    for n in range(30):
        assert await ledger.create(f"a/{n:02d}", b"x")
    await ledger.create("a/07/b", b"y")
    await ledger.delete_keys([f"a/{n:02d}" for n in range(28)] + ["a/07", "nothing"])
    assert [key for key, _, _ in await ledger.query("a/")] == ["a/07/b", "a/28", "a/29"]
    await ledger.delete_keys([])
    assert await ledger.create("a/07", b"again")


async def test_delete_is_by_prefix(ledger: Ledger) -> None:
    await ledger.create_many([(key, b"") for key in ("a/1", "a/2", "a", "ab", "b/1")])
    await ledger.delete("a/")
    assert [key for key, _, _ in await ledger.query("")] == ["a", "ab", "b/1"]
    await ledger.delete("nothing")
    await ledger.delete("a")
    assert [key for key, _, _ in await ledger.query("")] == ["b/1"]
    assert await ledger.create("a", b"again")
    assert await ledger.get("a") == (b"again", 1)


async def test_records_outlast_the_store(place: Place, ledger: Ledger) -> None:
    if place.reopen is None:
        pytest.skip("this place keeps nothing")
    await ledger.create_many([("a", b"1"), ("b", b"2")])
    await ledger.compare_and_set("a", b"3", 1)
    await ledger.delete("b")
    place.reopen()
    assert place.ledger is not None
    assert await place.ledger.query("") == [("a", b"3", 2)]


async def test_a_long_random_history_equals_a_dict(ledger: Ledger) -> None:
    draw = random.Random(7)
    model: dict[str, tuple[bytes, int]] = {}
    for step in range(400):
        key, value = f"{draw.choice('ab')}/{draw.randrange(12)}", str(step).encode()
        match draw.choice(["create", "create", "set", "set", "delete", "query"]):
            case "create":
                assert await ledger.create(key, value) is (key not in model)
                model.setdefault(key, (value, 1))
            case "set":
                version = draw.randrange(1, 4)
                wins = key in model and model[key][1] == version
                assert await ledger.compare_and_set(key, value, version) is wins
                if wins:
                    model[key] = (value, version + 1)
            case "delete" if draw.random() < 0.2:
                await ledger.delete(key)
                model = {other: row for other, row in model.items() if not other.startswith(key)}
            case _:
                prefix = key[:2]
                expected = sorted((k, *row) for k, row in model.items() if k.startswith(prefix))
                assert await ledger.query(prefix) == expected
