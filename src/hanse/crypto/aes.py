"""AES-128 over many blocks at a time: a pseudorandom generator (counter mode) and a pseudorandom function (one block).

NIST FIPS 197 and SP 800-38A, by way of `cryptography`. Not an encryption for messages: nothing here authenticates.

Guarantee: under the assumption that AES-128 is a pseudorandom permutation, outputs look uniform as long as far fewer
than 2^64 blocks are drawn under one key.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hanse.core import scratch

KEY_BYTES = 16
BLOCK_BYTES = 16

Blocks = npt.NDArray[np.uint64]


def prg(seed: bytes, size: int) -> npt.NDArray[np.uint8]:
    """`size` pseudorandom bytes from a seed of 16 bytes that is used for nothing else.

    Returns:
        uint8, `(size,)`.
    """
    encryptor = Cipher(algorithms.AES128(seed), modes.CTR(bytes(BLOCK_BYTES))).encryptor()
    if size <= scratch.LARGE_BYTES:
        return np.frombuffer(encryptor.update(bytes(size)), np.uint8)
    stream, zeros = scratch.empty((size,), np.uint8), bytes(scratch.BLOCK_BYTES)
    for start in range(0, size, len(zeros)):
        piece = encryptor.update(zeros[: size - start])
        stream[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    return stream


class BlockFunction:
    """y = AES_key(x) for many blocks x at a time.

    Args:
        key: 16 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor: Any = Cipher(algorithms.AES128(key), modes.ECB()).encryptor()
        self._buffer = np.empty(0, np.uint8)

    def __call__(self, blocks: Blocks) -> Blocks:
        """Outputs for `blocks`, uint64 `(n, 2)`, C order; a view of a buffer that the next call writes over."""
        needed = blocks.nbytes + BLOCK_BYTES - 1  # what `update_into` asks for
        if self._buffer.size < needed:
            self._buffer = np.empty(needed, np.uint8)
        self._encryptor.update_into(blocks.reshape(-1).view(np.uint8).data, self._buffer.data)
        return self._buffer[: blocks.nbytes].view(np.uint64).reshape(blocks.shape)
