"""The declaration of the training: messages between the guest and each host, Guarantee, Reveals.

K. Cheng, T. Fan, Y. Jin, Y. Liu, T. Chen, D. Papadopoulos, Q. Yang, "SecureBoost: A lossless federated learning
framework", IEEE Intelligent Systems 36, 2021; W. Chen et al., "SecureBoost+", arXiv 2110.10927 (GH in one ciphertext,
subtraction, packed answers, GOSS). The page is docs/explanation/vertical-boosting.md.
"""

from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.vertical.boosting.ciphers import KEY_PARTS, WIDTHS
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.glm.dealer import data_roles

VERSION = 1
_ASSUMPTIONS = {
    "okamoto-uchiyama": "p-subgroup assumption for a modulus of 2048 bits",
    "paillier": "decisional composite residuosity for a modulus of 2048 bits",
    "mock": "none: the mock cipher encrypts nothing",
}
_SUMS = (
    "in each node, each column's sums of derivatives over merged bins, how many these are, and whether so many rows "
    "have no value that they have a sum of their own"
)
_MEMBERS = "how many trees there are, and which rows are in which node, which depends on the label"


def protocol(num_hosts: int, settings: Settings, label_epsilon: float | None = None) -> Protocol:
    """The declaration for that many hosts; `label_epsilon` where trees are grown on labels answered by chance."""
    members = "node_members", _MEMBERS
    if label_epsilon is not None:
        told = f"{_MEMBERS} alone as answered by chance once and for all, label_epsilon={label_epsilon:g}"
        members = "answered_members", told
    hosts = data_roles(num_hosts)[1:]
    width, parts = WIDTHS[settings.cipher], KEY_PARTS[settings.cipher]
    messages: list[Message] = []
    reveals: list[Reveal] = []
    for host in hosts:
        messages += [
            Message("hello", "guest", host, "int64", (6,)),
            Message("hello", host, "guest", "int64", (6,)),
            Message("public_key", "guest", host, "uint8", (parts, width)),
            Message("tree", "guest", host, "int64", (2,)),
            Message("sample", "guest", host, "uint8", (None,)),
            Message("derivatives", "guest", host, "uint8", (None, width)),
            Message("counts", host, "guest", "int32", (None, None, 2)),
            Message("sums", host, "guest", "uint8", (None, width)),
            Message("chosen", "guest", host, "int64", (None, 3)),
            Message("sides", host, "guest", "uint8", (None,)),
            Message("grown", "guest", host, "uint8", (None,)),
            Message("moved", "guest", host, "uint8", (None,)),
        ]
        reveals += [
            Reveal(host, "guest", "shape", "how many rows and columns it has, and how large derivatives can be"),
            Reveal("guest", host, "shape", "how many rows and columns it has"),
            Reveal("guest", host, "bin_sums", _SUMS),
            Reveal("guest", host, "split_sides", "which rows of a node go left at each split on the host's columns"),
            Reveal(host, "guest", *members),
            Reveal(host, "guest", "own_splits", "which of its columns and bins trees ask about"),
        ]
        if settings.samples:
            reveals.append(Reveal(host, "guest", "sample", "which rows a tree is grown on, which depends on the label"))
        if settings.cross_validate:
            messages.append(Message("selected", "guest", host, "int64", (2,)))
            chosen = "which depth and how many trees did best in cross-validation, which depends on the label"
            reveals.append(Reveal(host, "guest", "selected", chosen))
        if settings.cipher == "mock":
            reveals.append(Reveal(host, "guest", "derivatives", "everything that would be encrypted, and so the label"))
    mock = settings.cipher == "mock"
    return Protocol(
        name="boosting/secureboost",
        roles=("guest", *hosts),
        messages=tuple(messages),
        guarantee=Guarantee(
            adversary="none" if mock else "semi-honest",
            corrupted=0 if mock else 1,
            computational_bits=0 if mock else 112,
            statistical_bits=0 if mock else 40,
            assumptions=(_ASSUMPTIONS[settings.cipher],),
        ),
        reveals=tuple(reveals),
    )
