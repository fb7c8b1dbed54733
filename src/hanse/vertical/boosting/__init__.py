"""Vertical gradient-boosted trees: SecureBoost (K. Cheng et al., IEEE Intelligent Systems 2021), exactly as pooled.

columns, response, settings   what goes in
splits, levels, training      the guest's arithmetic and its loop; `pooled` is it with all columns in one place
protocol, guest, host         the role programs, over `ciphers`
forest                        what each party keeps of the trees, and the canonical list
"""
