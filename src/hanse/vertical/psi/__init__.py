"""Private set intersection: two parties find which identifiers they share.

chase_miao      the default: oblivious transfer and symmetric work
diffie_hellman  the fallback: one multiplication on a curve for each identifier and side; also the number alone
ids             identifiers as bytes, and what both sides check before they start
"""
