"""Private set intersection: two parties find which identifiers they share.

chase_miao      the default: oblivious transfer and symmetric work
diffie_hellman  the fallback: one multiplication on a curve for each identifier and side; also the number alone
directory       unbalanced: a large set that is prepared once, and asked under a budget
parts           lists beyond memory, part by part
keys            one column, several together, or alternatives
ids             identifiers as bytes, and what both sides check before they start
"""
