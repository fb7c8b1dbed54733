"""Primitives of protocols on data, as pure functions over gmpy2, NumPy and `cryptography`: no I/O, no channel.

    aes           a PRG and a PRF over many blocks at a time
    curve25519    RFC 9380 encoding to the curve, and X25519 over many points
    base_ot       oblivious transfer of random seeds (Naor–Pinkas on P-256)
    oprf          the matrix OPRF of Chase and Miao: its parameters and its columns
    columns       the loops of that OPRF over bits, in NumPy and, where installed, numba
    matching      where two lists of digests agree

Certificates, signatures and sealed payloads are elsewhere: `hanse.trust`.
"""
