"""The host of a split network: a bottom network over its own columns, trained by gradients that the guest sends."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.channels.party import Party
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.split.codecs import Codec, Numbers, codec_of
from hanse.vertical.split.networks import (
    Bottom,
    check_finite,
    clipped,
    drawing,
    imported,
    load_progress,
    made_bottom,
    optimiser_of,
    progress_arrays,
    width_of,
)
from hanse.vertical.split.protocol import MAX_ROWS, MIN_ROWS, VERSION
from hanse.vertical.split.settings import Settings, steps

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainedHost:
    """What a host ends with.

    Attributes:
        role: which host it is.
        bottom: its network.
        num_steps: steps taken.
    """

    role: str
    bottom: Any
    num_steps: int


def check_rows(whose: str, table: Table) -> None:
    """Return if a table can be trained on.

    Raises:
        ConfigError: too few or too many rows.
    """
    if not MIN_ROWS <= len(table) <= MAX_ROWS:
        raise ConfigError(f"{whose}: expected {MIN_ROWS} to {MAX_ROWS} rows, found {len(table)}")


def agree(whose: str, theirs: list[int], rows: int, settings: Settings) -> None:
    """Return if a peer's greeting fits.

    Raises:
        RefusedError: another version, number of rows or settings.
    """
    version, their_rows, _, _, digest = theirs
    if version != VERSION:
        raise RefusedError(f"{whose}: expected version {VERSION} of the protocol, found {version}")
    if their_rows != rows:
        raise RefusedError(f"{whose}: expected {rows} rows as here, found {their_rows}; align the rows first")
    if digest != settings.digest():
        raise RefusedError(f"{whose}: expected the settings of the training as here, found others")


async def host(
    party: Party, table: Table, settings: Settings, bottom: Bottom, progress: Progress = BEGINNING
) -> TrainedHost:
    """Train with the guest.

    Args:
        party: in a host's role.
        table: its columns as they are trained on, float64 `(num_rows, num_columns)`, in the common order.
        settings: as at all parties.
        bottom: its network.
        progress: epochs that are done, with this party's state after them.

    Raises:
        ConfigError: input that does not fit, a training that diverged. RefusedError: the guest has other rows or
        settings, or does not keep to the protocol. UnavailableError: it is silent or gone. MissingExtraError: no torch.
    """
    check_rows(party.role, table)
    torch, codec = imported(), codec_of(settings)
    module = made_bottom(bottom, table.shape[1], settings.seed, party.role)
    width = width_of(module, table.shape[1], party.role)
    hello = [VERSION, len(table), table.shape[1], width, settings.digest()]
    await party.send("guest", "hello", np.array(hello, np.int64))
    agree("guest", (await party.recv("guest", "hello")).tolist(), len(table), settings)
    x = torch.from_numpy(table.astype(np.float32))
    optimiser, random = optimiser_of(module, settings), private_random()
    if progress.number:
        load_progress(module, optimiser, progress.state)
    module.train()
    taken = progress.number * -(-len(table) // settings.batch_rows)
    for step in steps(len(table), settings, progress.number):
        party.iteration = step.index
        optimiser.zero_grad()
        under_way = []
        for at, rows in enumerate(step.chunks):
            with drawing(settings.seed, party.role, "step", step.index * settings.chunks + at):
                embedding = clipped(module(x[torch.from_numpy(rows)]), settings.clip_embeddings)
            content = await tell(party, codec, embedding.detach().numpy(), settings, random)
            under_way.append((embedding, content))
        for embedding, content in under_way:
            gradient = codec.scattered(await party.recv("guest", "gradient"), content, width)
            if gradient is None or gradient.shape != tuple(embedding.shape) or not np.isfinite(gradient).all():
                raise RefusedError(f"guest: expected finite gradients of {tuple(embedding.shape)}, found others")
            embedding.backward(torch.from_numpy(np.array(gradient)))
        optimiser.step()
        taken = step.index + 1
        if step.ends_epoch and progress.keeps:
            progress.keep(step.epoch + 1, Arrays(progress_arrays(module, optimiser)))
    check_finite(module)
    return TrainedHost(party.role, module, taken)


async def tell(
    party: Party, codec: Codec, embedding: Numbers, settings: Settings, random: np.random.Generator
) -> dict[str, Array]:
    """Send an embedding with noise, compressed; what was sent.

    Raises:
        ConfigError: it is not finite.
    """
    if not np.isfinite(embedding).all():
        raise ConfigError(f"{party.role}: expected finite embeddings, found others; take a smaller learning rate")
    if settings.noise:
        noise = random.standard_normal(embedding.shape) * (settings.noise * settings.clip_embeddings)
        embedding = embedding + noise.astype(np.float32)
    content = codec.encode(embedding)
    for name, value in content.items():
        await party.send("guest", name, value)
    return content


def private_random() -> np.random.Generator:
    """For noise: seeded by the operating system, so that nobody can draw it again."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16), "little")))
