"""The guest of a split network: it holds the label, a bottom network over its own columns, and the top network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.split.codecs import Codec, Numbers, codec_of
from hanse.vertical.split.host import Table, agree, check_rows
from hanse.vertical.split.networks import (
    MAX_WIDTH,
    Bottom,
    Top,
    check_finite,
    drawing,
    imported,
    load_progress,
    loss_of,
    made_bottom,
    made_top,
    optimiser_of,
    progress_arrays,
    width_of,
)
from hanse.vertical.split.protocol import VERSION
from hanse.vertical.split.settings import Settings, steps


@dataclass(frozen=True, slots=True)
class TrainedGuest:
    """What the guest ends with.

    Attributes:
        bottom, top: its networks.
        widths: host's role → width of its embedding.
        defaults: host's role → its mean embedding over the last epoch, float32 `(width,)`: what is taken for a host
            that is away.
        losses: mean loss of each epoch.
        num_steps: steps taken.
    """

    bottom: Any
    top: Any
    widths: Mapping[str, int]
    defaults: Mapping[str, npt.NDArray[np.float32]]
    losses: tuple[float, ...] = field(default=())
    num_steps: int = 0


async def guest(
    party: Party,
    table: Table,
    response: Table,
    settings: Settings,
    bottom: Bottom,
    top: Top,
    progress: Progress = BEGINNING,
) -> TrainedGuest:
    """Train with all hosts; arguments and errors as for `host`.

    Args:
        response: float64 `(num_rows, num_outputs)`, see `hanse.vertical.glm.families.Response`.
        top: the network over all embeddings, its own first.
    """
    check_rows("guest", table)
    if len(response) != len(table):
        raise ConfigError(f"label: expected {len(table)} rows as in the table, found {len(response)}")
    torch, codec, hosts = imported(), codec_of(settings), party.protocol.roles[1:]
    own = made_bottom(bottom, table.shape[1], settings.seed, "guest")
    width = width_of(own, table.shape[1], "guest")
    hello = np.array([VERSION, len(table), response.shape[1], width, settings.digest()], np.int64)
    for role in hosts:
        await party.send(role, "hello", hello)
    widths: dict[str, int] = {}
    for role in hosts:
        theirs = (await party.recv(role, "hello")).tolist()
        agree(role, theirs, len(table), settings)
        if not 1 <= theirs[3] <= MAX_WIDTH:
            raise RefusedError(f"{role}: expected an embedding of width 1 to {MAX_WIDTH}, found {theirs[3]}")
        widths[role] = theirs[3]
    above = made_top(top, width + sum(widths.values()), response.shape[1], settings.seed)
    whole = torch.nn.ModuleList([own, above])
    optimiser = optimiser_of(whole, settings)
    whole.train()
    x, y = torch.from_numpy(table.astype(np.float32)), torch.from_numpy(response.astype(np.float32))
    losses = np.zeros(settings.epochs)
    sums = {role: np.zeros(size) for role, size in widths.items()}
    if progress.number:
        load_progress(whole, optimiser, progress.state)
        losses[: progress.number] = progress.state["losses"]
        sums = {role: np.array(progress.state[f"sum/{role}"]) for role in hosts}
    taken = progress.number * -(-len(table) // settings.batch_rows)
    for step in steps(len(table), settings, progress.number):
        party.iteration = step.index
        optimiser.zero_grad()
        for at, chunk in enumerate(step.chunks):
            rows = torch.from_numpy(chunk)
            draw = step.index * settings.chunks + at
            with drawing(settings.seed, "guest", "step", draw):
                mine = own(x[rows])
            heard = {role: await hear(party, role, codec, len(chunk), widths[role]) for role in hosts}
            leaves = [torch.from_numpy(embedding).requires_grad_() for embedding, _ in heard.values()]
            with drawing(settings.seed, "guest", "top step", draw):
                outputs = above(torch.cat([mine, *leaves], dim=1))
            check_outputs(outputs, len(chunk), response.shape[1])
            loss = loss_of(settings, outputs, y[rows]) * (len(chunk) / step.num_rows)
            loss.backward()
            gradients = [gradient_by(leaf) for leaf in leaves]  # all of them, before any is sent
            for (role, (embedding, content)), gradient in zip(heard.items(), gradients, strict=True):
                await party.send(role, "gradient", codec.gathered(gradient, content))
                if step.epoch == settings.epochs - 1:
                    sums[role] += embedding.sum(axis=0, dtype=np.float64)
            losses[step.epoch] += float(loss.detach()) * step.num_rows / len(table)
        optimiser.step()
        taken = step.index + 1
        if not np.isfinite(losses[step.epoch]):
            raise ConfigError("training: expected a finite loss, found another; take a smaller learning rate")
        if step.ends_epoch and progress.keeps:
            told = {f"sum/{role}": total.copy() for role, total in sums.items()}
            state = {**progress_arrays(whole, optimiser), **told, "losses": losses[: step.epoch + 1].copy()}
            progress.keep(step.epoch + 1, Arrays(state))
    check_finite(whole)
    defaults = {role: (total / len(table)).astype(np.float32) for role, total in sums.items()}
    return TrainedGuest(own, above, widths, defaults, tuple(losses.tolist()), taken)


async def hear(party: Party, role: str, codec: Codec, rows: int, width: int) -> tuple[Numbers, dict[str, Array]]:
    """A host's embedding of a chunk, and what it was read from.

    Raises:
        RefusedError: it does not fit.
    """
    content = {name: await party.recv(role, name) for name in codec.messages}
    fits = all(len(each) == rows for each in content.values())
    embedding = codec.decode(content, width) if fits else None
    if embedding is None or not np.isfinite(embedding).all():
        raise RefusedError(f"{role}: expected finite embeddings of {(rows, width)}, found others")
    return embedding, content


def gradient_by(leaf: Any) -> Numbers:
    """The loss's gradient by a host's embedding.

    Raises:
        ConfigError: there is none, or it is not finite.
    """
    found: Numbers | None = None if leaf.grad is None else leaf.grad.numpy()
    if found is None or not np.isfinite(found).all():
        raise ConfigError(
            "training: expected a finite gradient by every host's embedding, found another; take a smaller learning "
            "rate, and a top network that uses them all"
        )
    return found


def check_outputs(outputs: Any, rows: int, num_outputs: int) -> None:
    """Return if the top network gives what it should.

    Raises:
        ConfigError: another shape.
    """
    if tuple(outputs.shape) != (rows, num_outputs):
        raise ConfigError(f"top: expected outputs of {(rows, num_outputs)}, found {tuple(outputs.shape)}")
