"""Directories and lookups: against sets, what each side sees, budgets that outlive everything, and bad input."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.channels.spending import FileSpending
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import (
    CodecError,
    ConfigError,
    JobFailed,
    PolicyError,
    RefusedError,
    StorageError,
    TooLargeError,
)
from hanse.core.stream import Stream
from hanse.crypto.curve25519 import ORDER, Blinding, Encoder, multiply, new_secret
from hanse.vertical.psi import directory
from hanse.vertical.psi.directory import Directory, Secret

pytest.importorskip("gmpy2", reason="directories need gmpy2 (extra `vertical`)")

WHOLE = Protocol.joined("test", {"publishing": directory.PUBLISHING, "asking": directory.ASKING})


def run(guest_ids: Any, host_ids: Any, budget: int = 100, party: type[Party] = Party) -> tuple[Outcome, Any]:
    """Make a directory and ask it; and what each role received."""
    seen: dict[str, list[tuple[str, Array]]] = {"guest": [], "host": []}

    class Recording(party):  # type: ignore[valid-type, misc]  # a class that is given
        async def recv(self, sender: str, name: str) -> Array:
            value: Array = await super().recv(sender, name)
            seen[self.role].append((name.partition("/")[2], value))
            return value

    async def guest(party: Party) -> Any:
        party.__class__ = Recording
        kept = await directory.fetch(party.part("publishing"))
        kept = Directory.from_arrays(kept.to_arrays())
        found = await directory.ask(party.part("asking"), kept, guest_ids)
        await directory.leave(party.part("asking"))
        return found

    async def host(party: Party) -> Any:
        party.__class__ = Recording
        spending = FileSpending(":memory:")
        secret = await directory.publish(party.part("publishing"), host_ids, budget)
        secret = Secret.from_arrays(secret.to_arrays())
        return await directory.answer(party.part("asking"), secret, lambda n: spending.spend("bank", "d", n, budget))

    return run_scheduled(WHOLE, {"guest": guest, "host": host}, 1), seen


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_it_is_membership(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([st.integers(-5, 40), st.text(max_size=2), st.binary(max_size=2)]))
    host_ids = data.draw(st.lists(kind, max_size=40))
    guest_ids = data.draw(st.lists(st.sampled_from(host_ids) | kind if host_ids else kind, max_size=8))
    outcome, _ = run(guest_ids, host_ids)
    assert outcome.errors == {}
    assert outcome.results["guest"].tolist() == [each in set(host_ids) for each in guest_ids]
    assert outcome.results["host"] == len(guest_ids)


@pytest.mark.parametrize("count", [1, 15, 16, 31, 32, 33, 5000])
def test_a_directory_finds_all_its_values_and_no_others(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 256, (count, 16)).astype(np.uint8)
    made = directory.directory_of(values, 1, 1000)
    assert made.has(values).all()
    assert not made.has(rng.integers(0, 256, (2000, 16)).astype(np.uint8)).any()
    bits = len(made.starts).bit_length() - 1 + 8 * made.values.shape[1]
    assert bits >= 40 + np.log2(count * 1000)
    near = values.copy()
    near[:, bits // 8 - 1] ^= 0x80  # a difference in the last bits that are kept
    assert not made.has(near).any()


def test_what_is_kept_is_short() -> None:
    made = directory.directory_of(np.random.default_rng(0).integers(0, 256, (1 << 16, 16)).astype(np.uint8), 1, 1000)
    assert sum(each.nbytes for each in made.to_arrays().values()) < 7.3 * (1 << 16)


def test_blinding_is_undone_and_hides_the_point() -> None:
    encode, secret = Encoder(directory.TAG), new_secret()
    points = [encode(b"%d" % at) for at in range(6)]
    first, second = Blinding(points), Blinding(points)
    assert not set(first.points) & set(second.points)
    assert first.remove(multiply(secret, first.points)) == multiply(secret, points)
    for point in first.points:  # in the large subgroup, where all of them look alike
        with pytest.raises(RefusedError, match="large order"):
            first.times(ORDER, point)
    low = (325606250916557431795983626356110631294008115727848805560023387167927233504).to_bytes(32, "little")
    with pytest.raises(RefusedError, match="large order"):
        Blinding([low])


def test_the_ladder_is_x25519_s() -> None:
    """RFC 7748, section 5.2, the first vector; its scalar clamped."""
    scalar = bytearray.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    found = Blinding([]).times(int.from_bytes(scalar, "little"), u)
    assert found.hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


# ---- what is revealed ----


def bits_are_even(rows: Array, num_bits: int) -> bool:
    """Every bit position is 1 in half of the rows. False alarm: 5 sigma at at most 250 positions, 2e-4."""
    bits = np.unpackbits(rows, axis=1, bitorder="little")[:, :num_bits]
    return bool(np.abs((bits.mean(axis=0) - 0.5) * 2 * np.sqrt(len(bits))).max() < 5)


def test_the_view_is_made_of_what_is_revealed_and_masked_elements_are_uniform() -> None:
    guest_ids, host_ids = [f"a{at}" for at in range(600)], [f"a{at}" for at in range(500, 900)]
    outcome, seen = run(guest_ids, host_ids, budget=1000)
    for role, reveals in (
        ("guest", {"size": 400, "budget": 1000, "membership": outcome.results["guest"]}),
        ("host", {"queries": 600}),
    ):
        simulated = directory.simulate_view(role, guest_ids, reveals)
        assert [(n, a.dtype, a.shape) for n, a in simulated] == [(n, a.dtype, a.shape) for n, a in seen[role]]
    found = dict(seen["guest"])
    assert bits_are_even(found["values"], 8 * found["values"].shape[1])
    assert bits_are_even(found["evaluated"], 250)
    assert bits_are_even(seen["host"][0][1], 250)
    assert not bits_are_even(seen["host"][0][1] | 1, 250)  # the test can fail


def test_identifiers_that_repeat_are_not_told() -> None:
    ids = ["a", "b", "a", "c", "a"]
    for source in (ids, Stream(lambda: iter([ids[:2], ids[2:]]))):
        made = directory.build(Secret(new_secret(), 5), source)
        assert made.starts[-1] == len(made.values) == 3


def test_a_directory_is_under_a_fresh_secret_and_queries_differ() -> None:
    first, second = (run(["a"], [f"{at}" for at in range(50)])[1] for _ in range(2))
    assert not {bytes(row) for row in dict(first["guest"])["values"]} & {
        bytes(row) for row in dict(second["guest"])["values"]
    }
    assert bytes(first["host"][0][1]) != bytes(second["host"][0][1])


# ---- budgets ----


def test_what_is_counted_stays_counted(tmp_path: Path) -> None:
    path = tmp_path / "queries.db"
    spending = FileSpending(path)
    assert spending.spend("bank", "d1", 6, 10) == 4
    for _ in range(2):  # in another process it is the same: nothing is kept in memory
        again = FileSpending(path)
        with pytest.raises(PolicyError, match="bank has used 6 of 10 of what it was given and asks for 5 more"):
            again.spend("bank", "d1", 5, 10)
    assert again.spend("bank", "d1", 4, 10) == 0
    assert again.spend("post", "d1", 10, 10) == 0
    assert again.spend("bank", "d2", 3, 10) == 7
    owner = FileSpending(path, most=14)
    assert owner.spend("bank", "d2", 1, 10) == 6
    with pytest.raises(PolicyError, match=r"bank has used 14 of 14 of `queries` in policy.yaml"):
        owner.spend("bank", "d3", 1, 10)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(StorageError, match="cannot count queries"):
        FileSpending(tmp_path / "none" / "queries.db").spend("bank", "d", 1, 1)


def test_a_count_survives_a_power_cut(tmp_path: Path) -> None:
    """With `synchronous = FULL` SQLite does not wait until its journal is gone, which may undo the last count."""
    spending = FileSpending(tmp_path / "queries.db")
    spending.spend("bank", "d", 1, 1)
    assert spending._db is not None
    assert spending._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA


def test_a_count_that_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    spending = FileSpending(tmp_path / "queries.db")
    assert spending.spend("bank", "d", 1, 9) == 8
    spending._open().execute("PRAGMA busy_timeout = 0")
    reader = sqlite3.connect(tmp_path / "queries.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM spent").fetchall()  # while it reads nobody commits
    with pytest.raises(StorageError, match="cannot count queries"):
        spending.spend("bank", "d", 5, 9)
    reader.execute("COMMIT")
    assert spending.spend("bank", "d", 1, 9) == 7
    reader.close()


def test_a_used_up_budget_is_refused_by_name_and_nothing_is_answered() -> None:
    outcome, seen = run(list(range(7)), list(range(50)), budget=6)
    assert isinstance(outcome.errors["host"], PolicyError)
    assert "bank has used 0 of 6" in str(outcome.errors["host"])
    assert "evaluated" not in dict(seen["guest"])
    assert str(outcome.errors["guest"]) == "host stopped before it sent `asking/evaluated`"


def test_as_apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"guest": "bank", "host": "shop"}
    shop = {"customers": {"email": ["a", "b", "b", "c"], "phone": [1.0, np.nan, 2.0, 3.0]}}
    bank = {"applicants": {"email": ["x", "c", "", "a"], "phone": [2.0, 7.0, np.nan, 9.0]}}
    made = hs.vertical.Directory(dataset="customers", key=["email", "phone"], match="any", budget=9)
    built = hs.simulate(made, {"bank": {}, "shop": shop}, roles=roles)
    assert built.metrics["host_rows"] == 4
    lookup = hs.vertical.Lookup(made, made_by=built.job, dataset="applicants")
    monkeypatch.setattr(
        "hanse.clients.site.FileSpending", lambda path: FileSpending(tmp_path / "queries.db")
    )  # as at a site, where it outlives a job
    asked = hs.simulate(lookup, {"bank": bank, "shop": {}}, roles=roles, outputs=built)
    assert asked.arrays["guest/places"].tolist() == [0, 1, 3]
    assert (asked.metrics["guest_common"], asked.metrics["host_queries"]) == (3, 6)
    assert not [name for name in asked.arrays if name.startswith("host")]
    many = {"applicants": {"email": [f"{at}" for at in range(10)], "phone": np.arange(10.0)}}
    with pytest.raises(JobFailed, match="at most 9 identifiers, the budget of the directory, found 20"):
        hs.simulate(lookup, {"bank": many, "shop": {}}, roles=roles, outputs=built)
    with pytest.raises(JobFailed, match="bank has used 6 of 9"):  # of the others none was counted
        hs.simulate(lookup, {"bank": bank, "shop": {}}, roles=roles, outputs=built)
    said = {(each.to, each.about, each.what) for each in lookup.cast(()).protocol.reveals}
    assert said == {
        ("guest", "host", "membership"),
        ("host", "guest", "queries"),
        ("server", "guest", "rows"),
        ("server", "guest", "common"),
        ("server", "host", "queries"),
    }


# ---- bad input ----


@pytest.mark.parametrize(
    ("role", "name", "tamper", "words"),
    [
        ("host", "terms", lambda a: a * [9, 1, 1, 1], "expected version"),
        ("host", "terms", lambda a: a * [1, 1, 1, -1], "a budget"),
        ("host", "starts", lambda a: a[1:], "buckets of all its values"),
        ("host", "starts", lambda a: a[::-1].copy(), "buckets of all its values"),
        ("host", "values", lambda a: a[1:], "buckets of all its values"),
        ("host", "evaluated", lambda a: a[1:], "expected 5 points, found 4"),
        ("host", "evaluated", lambda a: a * 0, "large order"),
        ("guest", "blinded", lambda a: a * 0, "large order"),
    ],
)
def test_a_peer_that_deviates_is_refused(role: str, name: str, tamper: Any, words: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            ours = (self.role, name_.partition("/")[2]) == (role, name) and len(value)
            await super().send(to, name_, tamper(value) if ours else value)
            if ours and name == "values":
                await super().send(to, name_, value[:0])

    outcome, _ = run(list(range(5)), list(range(300)), party=Deviating)
    honest = "guest" if role == "host" else "host"
    assert isinstance(outcome.errors[honest], RefusedError)
    assert words in str(outcome.errors[honest])


@pytest.mark.parametrize("shape", [(1, 13), (1, 0), (4, 8)])
def test_a_host_that_sends_what_is_no_directory_is_refused_at_once(shape: tuple[int, int]) -> None:
    """Not only when two thousand million values have come, each as wide as a message may be."""

    async def host(party: Party) -> None:
        part = party.part("publishing")
        await part.send("guest", "terms", np.array([1, 1, 3, 5], np.int64))
        await part.send("guest", "starts", np.zeros(2, np.uint32))
        await part.send("guest", "values", np.zeros(shape, np.uint8))
        await party.part("asking").recv("guest", "blinded")  # nothing more is sent

    async def guest(party: Party) -> None:
        await directory.fetch(party.part("publishing"))

    outcome = run_scheduled(WHOLE, {"guest": guest, "host": host}, 1)
    assert isinstance(outcome.errors["guest"], RefusedError)
    assert "as many values as it said, of one short length" in str(outcome.errors["guest"])


@pytest.mark.parametrize(
    ("count", "starts", "words"),
    [(101, 2, "at most 100 identifiers (max_ids), found 101"), (90, 1000, "more of publishing/starts than is taken")],
)
def test_a_directory_that_is_larger_than_the_guest_takes_is_refused_at_its_head(
    count: int, starts: int, words: str
) -> None:
    async def host(party: Party) -> None:
        part = party.part("publishing")
        await part.send("guest", "terms", np.array([1, 1, count, 5], np.int64))
        await part.send("guest", "starts", np.zeros(starts, np.uint32))
        await party.part("asking").recv("guest", "blinded")  # nothing more is sent

    async def guest(party: Party) -> None:
        await directory.fetch(party.part("publishing"), 100)

    outcome = run_scheduled(WHOLE, {"guest": guest, "host": host}, 1)
    assert isinstance(outcome.errors["guest"], TooLargeError)
    assert words in str(outcome.errors["guest"])
    for wrong in (0, 1.0, (1 << 31) + 1):
        with pytest.raises(ConfigError, match="max_ids: expected a whole number"):
            hs.vertical.Directory(dataset="d", key="id", max_ids=wrong)  # type: ignore[arg-type]


def test_other_kinds_and_broken_files() -> None:
    outcome, _ = run(["1"], [1, 2])
    assert isinstance(outcome.errors["guest"], ConfigError)
    assert "text to ask for and whole numbers in the directory" in str(outcome.errors["guest"])
    kept = directory.directory_of(np.zeros((3, 16), np.uint8), 1, 10).to_arrays()
    for broken in ({}, {**kept, "terms": kept["terms"][1:]}, {**kept, "starts": kept["starts"].astype(np.int64)}):
        with pytest.raises(CodecError, match="directory: expected"):
            Directory.from_arrays(Arrays(broken))
    secret = Secret(new_secret(), 5).to_arrays()
    for broken in ({}, {**secret, "key": secret["key"][1:]}, {**secret, "terms": secret["terms"] * 2}):
        with pytest.raises(CodecError, match="directory: expected"):
            Secret.from_arrays(Arrays(broken))
    for bad in (0, (1 << 20) + 1, True, 1.0):
        with pytest.raises(ConfigError, match="budget"):
            hs.vertical.Directory(dataset="d", key="id", budget=bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected an hs\.vertical\.Directory"):
        hs.vertical.Lookup(3, made_by="j", dataset="d")  # type: ignore[arg-type]
