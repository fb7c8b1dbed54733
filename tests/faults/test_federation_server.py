"""A server that dies, stops or has no room left in the middle of a job: real processes, mutual TLS."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.controlled import Control, Controlled, Watch, controlled
from tests.patience import WAIT_S

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("federation-server")]
SITES = ("a", "b", "c")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    with controlled(tmp_path_factory.mktemp("server"), " ".join(SITES)) as made:
        yield made


@pytest.fixture
def federation(shared: Controlled) -> Iterator[Controlled]:
    shared.control.reset()
    yield shared
    shared.control.reset()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()[:100]}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; the file to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def learnt(watch: Watch) -> bytes:
    """The bits of the final model."""
    return watch.job.result().arrays["0"].tobytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_in_mid_round_goes_on_by_itself(federation: Controlled, number: signal.Signals) -> None:
    running, control = federation.running, federation.control
    undisturbed = learnt(federation.submit(rounds=5, min_sites=3)[0])

    control.hold(("c", 3))
    watch, label = federation.submit(rounds=5, min_sites=3)
    control.await_call(label, "c", 3)
    for site in ("a", "b"):
        watch.reply(site, 3)
    running.server.signal(number)
    running.server.wait()
    control.release("c", 3)  # it answers while there is no server
    began = time.monotonic()
    running.start_server()
    assert watch.end()["status"] == "finished"
    print(f"\n{number.name} to the server: the job was over {time.monotonic() - began:.2f} s after its restart")
    trained = Counter(control.trainings(label))
    assert trained == Counter({(site, round_): 1 for site in SITES for round_ in range(1, 6)})
    assert learnt(watch) == undisturbed
    assert watch.job.snapshot().rounds[2].folded == SITES


def test_a_server_killed_at_twenty_random_moments_trains_nothing_twice(federation: Controlled) -> None:
    running, control = federation.running, federation.control
    rounds = 500  # as a rule more than are done until the last kill
    undisturbed = learnt(federation.submit(rounds=rounds, min_sites=3)[0])

    moments = random.Random(2)
    hold_the_last(control, rounds)
    watch, label = federation.submit(rounds=rounds, min_sites=3)
    for turn in range(20):
        if turn % 5 > 1:  # while it starts, takes the job up, and sites come back
            time.sleep(moments.random() * 0.4)
        else:  # anywhere in a round, which is some milliseconds long
            await_more(control, label, moments.randrange(1, 20), rounds)
            time.sleep(moments.random() * 0.01)
        running.kill(running.server)
        running.start_server()
    release_the_last(control, rounds)
    assert watch.end()["status"] == "finished"
    trained = Counter(control.trainings(label))
    assert trained == Counter({(site, round_): 1 for site in SITES for round_ in range(1, rounds + 1)})
    assert learnt(watch) == undisturbed
    for record in watch.job.snapshot().rounds:
        assert (record.folded, record.late, record.failed) == (SITES, (), {}), record


def test_a_server_that_is_stopped_while_answers_are_on_their_way_loses_none(federation: Controlled) -> None:
    running, control = federation.running, federation.control
    rounds = 60
    hold_the_last(control, rounds)
    watch, label = federation.submit(rounds=rounds, min_sites=3)
    for turn in range(5):
        await_more(control, label, 7 + turn, rounds)
        running.server.signal(signal.SIGTERM)
        running.server.wait()
        running.start_server()
    release_the_last(control, rounds)
    assert watch.end()["status"] == "finished"
    trained = Counter(control.trainings(label))
    assert trained == Counter({(site, round_): 1 for site in SITES for round_ in range(1, rounds + 1)})
    for record in watch.job.snapshot().rounds:
        assert (record.folded, record.late, record.failed) == (SITES, (), {}), record


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "server").symlink_to(small_disk)
    (small_disk / "log").symlink_to(tmp_path / "log")  # what the server prints must not need the room that it misses
    with controlled(tmp_path, "a b") as federation:
        running, control = federation.running, federation.control
        undisturbed = learnt(federation.submit(size=250_000, rounds=4, min_sites=2)[0])

        control.hold(("a", 2), ("b", 2))
        watch, label = federation.submit(size=250_000, rounds=4, min_sites=2)
        control.await_call(label, "a", 2)
        control.await_call(label, "b", 2)
        filler = fill(small_disk)
        control.release("a", 2)
        control.release("b", 2)
        assert "/server" in await_in_log(federation, "space").partition("folder")[2]  # whose disk it is
        assert running.server.alive
        assert watch.job.status()["status"] == "running"
        filler.unlink()
        assert watch.end()["status"] == "finished"
        for record in watch.job.snapshot().rounds:
            assert (record.folded, record.failed) == (("a", "b"), {}), record
        assert Counter(control.trainings(label)) == Counter({(s, r): 1 for s in ("a", "b") for r in range(1, 5)})
        assert learnt(watch) == undisturbed

        again, _ = federation.submit(size=250_000, rounds=1, min_sites=2)
        assert again.end()["status"] == "finished"


def hold_the_last(control: Control, rounds: int) -> None:
    """The job is not over before the test says so, however far it comes meanwhile."""
    control.hold(*((site, rounds) for site in SITES))


def release_the_last(control: Control, rounds: int) -> None:
    for site in SITES:
        control.release(site, rounds)


def await_more(control: Control, label: str, more: int, rounds: int) -> None:
    """Wait until so many further trainings have begun, or all but the last round's."""
    control.await_trainings(label, min(len(control.trainings(label)) + more, len(SITES) * (rounds - 1)))


def await_in_log(federation: Controlled, text: str) -> str:
    """Wait for a line in the server's log."""
    end = time.monotonic() + WAIT_S
    while True:
        found = [line for line in federation.log(federation.running.server).splitlines() if text in line]
        if found:
            print(f"\n{found[0][:300]}")
            return found[0]
        assert time.monotonic() < end, federation.log(federation.running.server)[-2000:]
        time.sleep(0.02)  # a file; nothing announces a line
