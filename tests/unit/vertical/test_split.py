"""Split networks: bit for bit the same network in one process; how embeddings travel; what is refused; what is told."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.channels.checkpoints import Progress
from hanse.channels.party import Party
from hanse.channels.schedule import Outcome, run_scheduled
from hanse.core.arrays import Array, Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, ConfigError, RefusedError, UnavailableError
from hanse.vertical import metrics
from hanse.vertical.glm.columns import prepare
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.glm.families import response_of
from hanse.vertical.split import guest, host, networks, protocol, saved, scoring
from hanse.vertical.split.codecs import codec_of
from hanse.vertical.split.scoring import SplitPart
from hanse.vertical.split.settings import Settings, row_epsilon, steps

torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")

BOTTOM, TOP = (6, 5), (7,)
FIRST, SECOND = data_roles(2)[1:]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products gain nothing from more, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def people(rows: int = 230, outputs: int = 1, seed: int = 0) -> tuple[list[Any], Any]:
    """Tables of a guest and two hosts, and a response."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 9))
    z = np.tanh(x @ rng.standard_normal((9, max(2, outputs)))) + 0.3 * rng.standard_normal((rows, max(2, outputs)))
    y = np.eye(z.shape[1])[z.argmax(1)]
    return [x[:, :3], x[:, 3:5], x[:, 5:]], y if outputs > 1 else y[:, :1]


def train(
    tables: list[Any], y: Any, chosen: Settings, seed: int = 0, kind: type[Party] = Party, **nets: Any
) -> Outcome:
    roles = data_roles(len(tables) - 1)
    bottom, top = nets.get("bottom", BOTTOM), nets.get("top", TOP)

    def program(role: str, table: Any) -> Any:
        async def body(party: Party) -> Any:
            party.__class__ = kind
            if role == "guest":
                return await guest.guest(party, table, y, chosen, bottom, top)
            return await host.host(party, table, chosen, bottom)

        return body

    programs = {role: program(role, table) for role, table in zip(roles, tables, strict=True)}
    return run_scheduled(protocol.protocol(chosen, len(tables) - 1), programs, seed)


class Whole(torch.nn.Module):  # type: ignore[misc, name-defined]
    """All networks in one, with one graph through all of them."""

    def __init__(self, widths: list[int], outputs: int, seed: int, roles: tuple[str, ...]) -> None:
        super().__init__()
        self.bottoms = torch.nn.ModuleList(
            [networks.made_bottom(BOTTOM, width, seed, role) for width, role in zip(widths, roles, strict=True)]
        )
        self.top = networks.made_top(TOP, BOTTOM[-1] * len(widths), outputs, seed)

    def forward(self, parts: list[Any]) -> Any:
        return self.top(torch.cat([net(part) for net, part in zip(self.bottoms, parts, strict=True)], dim=1))


@pytest.mark.parametrize(
    ("options", "outputs", "hosts"),
    [
        ({}, 1, 1),
        ({"chunks": 1, "optimiser": "sgd", "momentum": 0.9, "learning_rate": 0.05, "l2": 0.01}, 1, 2),
        ({"chunks": 3, "batch_rows": 50, "seed": 7}, 3, 2),
        ({"loss": "mse", "chunks": 4}, 1, 2),
    ],
)
def test_it_is_the_network_in_one_process_bit_for_bit(options: dict[str, Any], outputs: int, hosts: int) -> None:
    chosen = Settings(**{"epochs": 3, "batch_rows": 64, **options})
    tables, y = people(outputs=outputs)
    tables = tables[: hosts + 1]
    outcome = train(tables, y, chosen, seed=hosts)
    assert outcome.errors == {}

    roles = data_roles(hosts)
    whole = Whole([each.shape[1] for each in tables], outputs, chosen.seed, roles)
    x = [torch.from_numpy(each.astype(np.float32)) for each in tables]
    target = torch.from_numpy(y.astype(np.float32))
    if chosen.optimiser == "adam":
        optimiser = torch.optim.Adam(whole.parameters(), lr=chosen.learning_rate, weight_decay=chosen.l2)
    else:
        optimiser = torch.optim.SGD(
            whole.parameters(), lr=chosen.learning_rate, momentum=chosen.momentum, weight_decay=chosen.l2
        )
    loss_of = torch.nn.MSELoss() if chosen.loss == "mse" else torch.nn.BCEWithLogitsLoss()
    if outputs > 1:
        loss_of = torch.nn.CrossEntropyLoss()
    for step in steps(len(y), chosen):
        optimiser.zero_grad()
        for chunk in step.chunks:
            loss = loss_of(whole([each[chunk] for each in x]), target[chunk])
            (loss * (len(chunk) / step.num_rows)).backward()
        optimiser.step()
    found = outcome.results
    trained = [found["guest"].bottom, *(found[role].bottom for role in roles[1:])]
    for net, reference in zip([*trained, found["guest"].top], [*whole.bottoms, whole.top], strict=True):
        for name, value in reference.state_dict().items():
            assert torch.equal(value, net.state_dict()[name]), name
    first = networks.made_bottom(BOTTOM, tables[0].shape[1], chosen.seed, "guest").state_dict()["0.weight"]
    assert not torch.equal(first, whole.bottoms[0].state_dict()["0.weight"])
    assert found["guest"].losses[-1] < found["guest"].losses[0]


def test_interleavings_and_what_was_drawn_before_change_no_bit() -> None:
    """Also with modules that draw, such as dropout."""

    def bottom(width: int) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(width, 6), torch.nn.Dropout(0.3))

    tables, y = people()
    chosen = Settings(epochs=2, batch_rows=64)
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found = train(tables, y, chosen, seed, bottom=bottom).results
        assert torch.equal(before, torch.get_rng_state())
        states.append([*found["guest"].top.state_dict().values(), *found[SECOND].bottom.state_dict().values()])
    for other in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], other, strict=True))


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "momentum": 0.9, "learning_rate": 0.05}])
@pytest.mark.parametrize("done", [1, 3])
def test_going_on_from_a_checkpoint_gives_the_same_bits(options: dict[str, Any], done: int) -> None:
    tables, y = people()
    chosen = Settings(epochs=3, batch_rows=64, **options)
    kept: dict[str, dict[int, Any]] = {role: {} for role in data_roles(2)}

    def program(role: str, table: Any, number: int) -> Any:
        state = decode(encode(kept[role][number])) if number else Arrays()
        progress = Progress(number, state, lambda at, arrays: kept[role].__setitem__(at, arrays), True)
        if role == "guest":
            return lambda party: guest.guest(party, table, y, chosen, BOTTOM, TOP, progress)
        return lambda party: host.host(party, table, chosen, BOTTOM, progress)

    found = []
    for number in (0, done):
        programs = {role: program(role, table, number) for role, table in zip(kept, tables, strict=True)}
        outcome = run_scheduled(protocol.protocol(chosen, 2), programs, number)
        assert outcome.errors == {}
        found.append(outcome.results)
    assert list(kept[FIRST]) == [1, 2, 3]
    for role in kept:
        for one, other in zip(*(each[role].bottom.state_dict().values() for each in found), strict=True):
            assert torch.equal(one, other)
    first, second = (each["guest"] for each in found)
    assert (first.losses, first.num_steps) == (second.losses, second.num_steps)
    assert all(np.array_equal(first.defaults[role], second.defaults[role]) for role in first.defaults)


def test_every_row_is_in_every_epoch_once() -> None:
    chosen = Settings(epochs=3, batch_rows=50, chunks=4, seed=3)
    found = list(steps(123, chosen))
    assert len(found) == 9
    orders = [np.concatenate([np.concatenate(s.chunks) for s in found if s.epoch == epoch]) for epoch in range(3)]
    assert all(sorted(order) == list(range(123)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert {len(each) for step in found for each in step.chunks} <= {10, 11}


# ---- how embeddings travel ----


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(-20, 20), st.integers(0, 99), st.floats(0.05, 1.0))
def test_codecs_against_loops(rows: int, width: int, exponent: int, seed: int, kept: float) -> None:
    rng = np.random.default_rng(seed)
    e = (rng.standard_normal((rows, width)) * 2.0**exponent).astype(np.float32)
    e[rng.random(e.shape) < 0.2] = 0
    gradient = rng.standard_normal(e.shape).astype(np.float32)
    for name in ("none", "bfloat16", "int8", "topk"):
        codec = codec_of(Settings(compression=name, kept=kept))
        content = dict(decode(encode(Arrays(codec.encode(e)))))
        found = codec.decode(content, width)
        back = codec.scattered(codec.gathered(gradient, content), content, width)
        assert found is not None
        assert back is not None
        assert found.shape == back.shape == e.shape
        assert {n: str(v.dtype) for n, v in content.items()} == dict(codec.messages)
        expected, told = e.copy(), gradient
        if name == "bfloat16":
            assert (np.abs(found - e) <= np.abs(e) * 2.0**-8).all()
            continue
        if name == "int8":
            assert (np.abs(found - e) <= np.abs(e).max(axis=1, keepdims=True) / 127 * 0.5001).all()
            continue
        if name == "topk":
            for row in range(rows):
                order = sorted(range(width), key=lambda at: (-abs(e[row, at]), at))
                expected[row, order[max(1, math.ceil(kept * width)) :]] = 0
            told = np.where(np.isin(np.arange(e.size).reshape(e.shape), _places(content, width)), gradient, 0)
        assert np.array_equal(found, expected)
        assert np.array_equal(back, told)


def _places(content: dict[str, Array], width: int) -> Any:
    return content["places"].astype(int) + width * np.arange(len(content["places"]))[:, None]


@pytest.mark.parametrize("compression", ["bfloat16", "int8", "topk"])
def test_compressed_training_learns_with_fewer_bytes(compression: str) -> None:
    tables, y = people(600)
    plain, chosen = (
        Settings(epochs=6, batch_rows=64, learning_rate=0.01, compression=c, kept=0.4) for c in ("none", compression)
    )
    first, second = train(tables, y, plain), train(tables, y, chosen)
    assert second.errors == {}
    assert second.results["guest"].losses[-1] < second.results["guest"].losses[0] - 0.1
    sent = [each.parties[FIRST].counters.sent_bytes for each in (first, second)]
    assert sent[1] < sent[0]


def test_clipped_embeddings_have_noise_of_the_declared_size() -> None:
    tables, y = people(400)
    chosen = Settings(epochs=4, batch_rows=100, clip_embeddings=0.5, noise=3.0)
    seen: list[Array] = []

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            if (sender, name) == (FIRST, "embedding"):
                seen.append(value)
            return value

    assert train(tables, y, chosen, kind=Recording).errors == {}
    values = np.concatenate(seen)
    # 1600 × 5 normal numbers of deviation 1.5 about numbers of at most 0.5: mean square 2.25 to 2.31 ± 5 · 0.036
    assert 2.07 < (values.astype(float) ** 2).mean() < 2.49
    e = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(networks.clipped(e, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize(("noise", "releases"), [(2.0, 1), (30.0, 12), (0.7, 3)])
def test_epsilon_of_a_row_is_that_of_the_gaussian_mechanism(noise: float, releases: int) -> None:
    """By integrating the hockey stick divergence of two normal densities numerically."""
    delta = 1e-5
    found = row_epsilon(noise, delta, releases)
    mu = 2 * math.sqrt(releases) / noise
    x = np.linspace(-40, 40 + mu, 2_000_001)
    log_p, log_q = -((x - mu) ** 2) / 2, -(x**2) / 2
    gap = np.exp(log_p) - np.exp(np.minimum(found + log_q, 700))
    divergence = np.maximum(gap, 0).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)
    assert divergence == pytest.approx(delta, rel=1e-3)
    assert row_epsilon(0.0, delta, 1) == math.inf


# ---- what the messages tell ----


def test_gradients_tell_the_labels() -> None:
    """The norm attack of Li et al., 2022: rare rows have the larger gradients. It is why there is no guarantee."""
    rng = np.random.default_rng(1)
    tables, _ = people(2000)
    y = ((tables[1] @ [1.0, -1.0] + 0.5 * rng.standard_normal(2000)) > 1.6).astype(float)[:, None]
    assert 0.1 < y.mean() < 0.2
    chosen = Settings(epochs=2, batch_rows=100, chunks=1)
    norms: list[Array] = []

    class Recording(Party):
        async def recv(self, sender: str, name: str) -> Array:
            value = await super().recv(sender, name)
            if self.role == FIRST and name == "gradient":
                norms.append(np.linalg.norm(value.astype(np.float64), axis=1))
            return value

    assert train(tables, y, chosen, kind=Recording).errors == {}
    leaks = [
        metrics.auc(y[step.chunks[0], 0], norm)
        for step, norm in zip(steps(2000, chosen), norms, strict=True)
        if 0 < y[step.chunks[0]].sum() < 100
    ]
    assert np.mean(leaks) > 0.9
    told = {(each.to, each.about, each.what) for each in protocol.protocol(chosen, 2).reveals}
    assert {(FIRST, "guest", "labels"), ("guest", SECOND, "embeddings")} <= told
    assert protocol.protocol(chosen).guarantee.adversary == "none"


# ---- joint scores, saved parts ----


def parts_of(outcome: Outcome, tables: list[Any]) -> dict[str, SplitPart]:
    found = {}
    for role, table in zip(outcome.results, tables, strict=True):
        columns = prepare(table, intercept=False, standardise=False)
        trained = outcome.results[role]
        top, defaults = (trained.top, dict(trained.defaults)) if role == "guest" else (None, {})
        found[role] = SplitPart(role, columns, trained.bottom, top, defaults)
    return found


def score(
    parts: dict[str, SplitPart], tables: list[Any], rows: Any, chosen: Settings, away: str = "", refuse: bool = True
) -> Outcome:
    programs: dict[str, Any] = {
        "guest": lambda p: scoring.guest(p, parts["guest"], tables[0][rows], rows, chosen, refuse_offline=refuse)
    }
    for role, table in zip(list(parts)[1:], tables[1:], strict=True):

        async def answer(party: Party, role: str = role, table: Any = table) -> None:
            if role == away:
                await party.stop()
            else:
                await scoring.host(party, parts[role], table, chosen, max_rows=1000)

        programs[role] = answer
    return run_scheduled(protocol.scoring(chosen, len(tables) - 1), programs, 0)


def test_joint_scores_are_offline_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BLOCK_ROWS", 50)
    tables, y = people()
    chosen = Settings(epochs=2, batch_rows=64)
    parts = parts_of(train(tables, y, chosen), tables)
    rows = np.random.default_rng(0).permutation(230)[:130].astype(np.int64)
    found = score(parts, tables, rows, chosen).results["guest"]
    with torch.no_grad():
        each = [
            p.bottom(torch.from_numpy(t.astype(np.float32))[rows]) for p, t in zip(parts.values(), tables, strict=True)
        ]
        offline = parts["guest"].top(torch.cat(each, 1)).numpy()
    assert np.abs(found - offline).max() < 1e-6
    single = score(parts, tables, rows[:1], chosen).results["guest"]
    assert np.abs(single - offline[:1]).max() < 1e-6

    assert isinstance(score(parts, tables, rows, chosen, away=SECOND).errors["guest"], UnavailableError)
    default = score(parts, tables, rows, chosen, away=SECOND, refuse=False).results["guest"]
    with torch.no_grad():
        each[2] = torch.from_numpy(parts["guest"].defaults[SECOND]).expand(130, -1)
        assert np.abs(default - parts["guest"].top(torch.cat(each, 1)).numpy()).max() < 1e-6
    assert np.abs(default - offline).max() > 0
    many = score(parts, tables, np.zeros(1001, np.int64), chosen)
    assert "1 to 1000 rows, found 1001" in str(many.errors[FIRST])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_saved_part_is_the_same_and_anything_else_is_refused(data: st.DataObject) -> None:
    tables, y = people(40)
    columns = prepare(tables[0], ("a", "b", "c"), intercept=False, clip=3.0)
    response = response_of(np.where(y[:, 0] > 0, "yes", "no"), "logistic")
    part = SplitPart(
        "guest",
        columns,
        networks.made_bottom(BOTTOM, 3, 5, "guest"),
        networks.made_top(TOP, 5 + 4, 1, 5),
        {"host": np.arange(4, dtype=np.float32)},
    )
    good = encode(saved.encoded(part, response))
    again, answer = saved.decoded(decode(good), BOTTOM, TOP)
    assert answer is not None
    assert answer.classes == ("no", "yes")
    assert saved.role_in(decode(good)) == "guest"
    assert torch.equal(part.embedding(tables[0]), again.embedding(tables[0]))
    assert all(
        torch.equal(a, b) for a, b in zip(part.top.state_dict().values(), again.top.state_dict().values(), strict=True)
    )
    arrays: dict[str, Any] = dict(decode(good))
    name = data.draw(st.sampled_from(list(arrays)))
    value = st.sampled_from([None, np.zeros(3), np.full((6, 3), np.nan, np.float32), np.zeros((0, 3), np.int8)])
    text = st.sampled_from([b"", b"[]", b'{"v":1}', b'{"v":1,"role":"guest","names":["a","a","b"]}', b"[" * 100_000])
    change = np.frombuffer(data.draw(text), np.uint8) if name == "about" else data.draw(value)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change
    try:
        found, _ = saved.decoded(Arrays(arrays), BOTTOM, TOP)
    except CodecError:
        return
    assert name in ("means", "default/host")  # three zeros are means; and there may be no host
    assert found.columns.means.tolist() == [0, 0, 0] or not found.defaults


# ---- what is refused ----


@pytest.mark.parametrize(
    ("role", "name", "change", "words"),
    [
        (FIRST, "embedding", lambda v: v * np.float32(np.nan), "expected finite embeddings"),
        (FIRST, "embedding", lambda v: v[:, :-1].copy(), "expected finite embeddings"),
        (FIRST, "embedding", lambda v: v[:-1].copy(), "expected finite embeddings"),
        ("guest", "gradient", lambda v: v * np.float32(np.inf), "expected finite gradients"),
        ("guest", "gradient", lambda v: v[:-1].copy(), "expected finite gradients"),
        (SECOND, "hello", lambda v: v + np.array([1, 0, 0, 0, 0]), "expected version 1"),
        (SECOND, "hello", lambda v: v + np.array([0, 1, 0, 0, 0]), "expected 230 rows as here, found 231"),
        (SECOND, "hello", lambda v: v * np.array([1, 1, 1, 0, 1]), "expected an embedding of width 1 to"),
        ("guest", "hello", lambda v: v + np.array([0, 0, 0, 0, 1]), "expected the settings"),
    ],
)
def test_a_party_that_deviates_is_refused(role: str, name: str, change: Any, words: str) -> None:
    class Deviating(Party):
        async def send(self, to: str, name_: str, value: Array) -> None:
            await super().send(to, name_, change(value) if (self.role, name_) == (role, name) else value)

    outcome = train(*people(), Settings(epochs=1), kind=Deviating)
    assert words in "".join(str(each) for each in outcome.errors.values() if isinstance(each, RefusedError))
    assert len(outcome.errors) >= 2  # where the last message was wrong, its sender has ended


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "magic"}, "loss: expected one of cross_entropy, mse"),
        ({"epochs": 0}, "epochs: expected a whole number from 1"),
        ({"noise": 1.0}, "noise: expected clip_embeddings above 0"),
        ({"momentum": 0.9}, "momentum: below 1, and 0 with adam"),
        ({"learning_rate": math.nan}, "learning_rate: expected a number"),
        ({"kept": 0.0}, "kept: expected a share"),
        ({"compression": "zip"}, "compression: expected one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings(**options)


def test_networks_that_do_not_fit_are_refused() -> None:
    tables, y = people()
    for nets, words in (
        ({"bottom": lambda width: torch.nn.Flatten(0)}, "expected a bottom network that gives float32"),
        ({"bottom": lambda width: "net"}, "expected a function that makes an nn.Module, found str"),
        ({"top": lambda inputs, outputs: torch.nn.Linear(inputs, outputs + 1)}, "expected outputs of (115, 1)"),
    ):
        outcome = train(tables, y, Settings(epochs=1), **nets)
        assert words in "".join(str(each) for each in outcome.errors.values())
    diverged = train(tables, y * 1e30, Settings(epochs=3, loss="mse", optimiser="sgd", learning_rate=16.0))
    assert "take a smaller learning rate" in str(diverged.errors["guest"])
    assert not any("expected finite gradients" in str(error) for error in diverged.errors.values())  # it blames nobody


def test_weights_that_only_the_last_step_spoils_are_no_model() -> None:
    tables, y = people(rows=16)
    chosen = Settings(epochs=1, batch_rows=16, chunks=1, optimiser="sgd", learning_rate=16.0)

    class Deviates(Party):
        async def send(self, to: str, name: str, value: Array) -> None:
            spoilt = np.full_like(value, 3e38) if name == "gradient" else value
            await super().send(to, name, spoilt)

    found = train(tables, y, chosen, kind=Deviates)
    assert "expected finite weights at its end" in str(found.errors[FIRST])
    assert "guest" in found.results


def test_a_top_network_that_leaves_a_host_out_is_refused() -> None:
    class Own(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(5, 1)

        def forward(self, x: Any) -> Any:
            return self.layer(x[:, :5].detach() + self.layer.bias)

    tables, y = people(rows=16)
    found = train(tables, y, Settings(epochs=1), top=lambda inputs, outputs: Own())
    assert "a top network that uses them all" in str(found.errors["guest"])
    for name, bad in (("bottom", ()), ("bottom", (0,)), ("top", [3]), ("top", 5)):
        with pytest.raises(ConfigError, match=f"{name}: expected widths"):
            networks.check_widths(name, bad)
