"""Primitives of protocols on data, as pure functions over gmpy2, NumPy and `cryptography`: no I/O, no channel.

    aes           a PRG and a PRF over many blocks at a time
    curve25519    RFC 9380 encoding to the curve, and X25519 over many points
    base_ot       oblivious transfer of random seeds (Naor–Pinkas on P-256)
    oprf          the matrix OPRF of Chase and Miao: its parameters and its columns
    columns       the loops of that OPRF over bits, in NumPy and, where installed, numba
    paillier      additively homomorphic encryption (Damgård–Jurik–Nielsen)
    okamoto_uchiyama  the same, smaller and faster, where the key holder encrypts and answers nothing
    fixed_base, primes, gmp  what both stand on
    fixed_point   real numbers as integers modulo 2^64
    packing       several integers in one message
    sharing       additive shares modulo 2^64, products with a dealer's triples
    rlwe, ntt     products of an encrypted vector with a matrix in clear, from ring learning with errors
    mock_rlwe     the same messages without any protection, for benchmarks
    truncation    dividing shares by a power of two, with a dealer's pairs
    matching      where two lists of digests agree

Certificates, signatures and sealed payloads are elsewhere: `hanse.trust`.
"""
