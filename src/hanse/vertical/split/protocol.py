"""Split networks: messages, and what they tell whom.

O. Gupta, R. Raskar, "Distributed learning of deep neural network over multiple agents", JNCA 2018; P. Vepakomma, O.
Gupta, T. Swedish, R. Raskar, "Split learning for health", 2018; the guest's network on top of several hosts' as in I.
Ceballos et al., "SplitNN-driven vertical partitioning", 2020. For each chunk of a batch:

    host     e = bottom(x)              embedding, clipped, with noise, compressed: to the guest
    guest    loss(top([own e, e…]), y)  gradient by each host's e: to that host
    all      after the batch's chunks, a step of their own optimisers

**There is no guarantee.** Embeddings and gradients are told in the clear.
"""

from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.split.codecs import codec_of
from hanse.vertical.split.settings import Settings

VERSION = 1
MIN_ROWS = 8
MAX_ROWS = 1 << 27

_NONE = Guarantee("none", 0, 0, 0, ("every party may know what embeddings and gradients tell",))
_EMBEDDINGS = (
    "for each row and step, the output of the host's network; columns can be rebuilt from it (Z. He, T. Zhang, R. Lee, "
    "ACSAC 2019), best by a guest that knows some rows"
)
_LABELS = (
    "for each row and step, the gradient by its embedding; labels can be read from its norm and direction (O. Li et "
    "al., ICLR 2022), of two classes nearly all of them"
)


def protocol(settings: Settings, num_hosts: int = 1) -> Protocol:
    """The declaration of the training."""
    hosts = data_roles(num_hosts)[1:]
    messages: list[Message] = []
    reveals: list[Reveal] = []
    for host in hosts:
        messages += [
            Message("hello", "guest", host, "int64", (5,)),
            Message("hello", host, "guest", "int64", (5,)),
            *(Message(n, host, "guest", dtype, (None, None)) for n, dtype in codec_of(settings).messages.items()),
            Message("gradient", "guest", host, "float32", (None, None)),
        ]
        reveals += [
            Reveal(host, "guest", "shape", "how many rows and outputs the guest has, and the width of its embedding"),
            Reveal("guest", host, "shape", "how many rows and columns the host has, and the width of its embedding"),
            Reveal("guest", host, "embeddings", _EMBEDDINGS),
            Reveal(host, "guest", "labels", _LABELS),
        ]
    return Protocol("split/training", ("guest", *hosts), tuple(messages), _NONE, tuple(reveals))


def scoring(settings: Settings, num_hosts: int = 1) -> Protocol:
    """The declaration of joint scoring."""
    hosts = data_roles(num_hosts)[1:]
    messages: list[Message] = []
    reveals: list[Reveal] = []
    for host in hosts:
        messages += [
            Message("rows", "guest", host, "int64", (None,)),
            *(Message(n, host, "guest", dtype, (None, None)) for n, dtype in codec_of(settings).messages.items()),
        ]
        reveals += [
            Reveal(host, "guest", "scored_rows", "which of the common rows the guest asks for"),
            Reveal("guest", host, "embeddings", "for each of these rows, the output of the host's network"),
        ]
    return Protocol("split/scoring", ("guest", *hosts), tuple(messages), _NONE, tuple(reveals))
