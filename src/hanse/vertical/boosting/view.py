"""What a party sees of a training, made from what is revealed to it alone: the proof of `protocol` as a program.

Everything that the other side sends is either revealed as it is, by name in the declaration, or a ciphertext. A host's
ciphertexts are made up as encryptions of nothing under a key that is drawn for it; the guest's, which it can open, as
fresh encryptions of the sums that are revealed. That real views look like this is what the test checks; that nobody can
tell the host's apart is the cipher's assumption, and that the guest's tell no more than their messages is what
re-randomising is for.
"""

from collections.abc import Sequence

import numpy as np

from hanse.core.arrays import Array
from hanse.vertical.boosting.ciphers import KEEPERS, Keeper, Layout

View = list[tuple[str, Array]]


def simulate_view(cipher: str, layout: Layout, reveals: Sequence[tuple[str, Array]]) -> View:
    """What a role receives in a run, in order.

    Args:
        cipher: its name.
        layout: as in the run.
        reveals: for each message its name and what is revealed by it: the array itself; for `sums` int64 `(n, 2)`, Σg
            and Σh of the cells; for `derivatives` an array with one element a row, which is not looked at; for
            `public_key` anything.
    """
    keeper: Keeper = KEEPERS[cipher]()
    return [(name, _made_up(keeper, cipher, layout, name, revealed)) for name, revealed in reveals]


def _made_up(keeper: Keeper, cipher: str, layout: Layout, name: str, revealed: Array) -> Array:
    if name == "public_key":
        return keeper.public()
    if name == "derivatives":
        return keeper.encrypt([0] * len(revealed), layout)
    if name == "sums":
        messages = [(g << layout.h_bits) + h for g, h in np.asarray(revealed).tolist()]
        adder = KEEPERS[cipher].adder(keeper.public())
        made: Array = adder.answers(adder.read(keeper.encrypt(messages, layout)), layout)
        return made
    return revealed
