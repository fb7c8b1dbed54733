"""Generalised linear models over the columns of several parties.

families, training, columns, plaintext   the mathematics, once, in the clear: the yardstick
series, precision, dealt                 fixed point, mean functions on shares, what a dealer deals
dealer, dealer_view                      secret sharing with the arbiter as dealer, and the simulation of its views
key_holder, key_holder_view              an arbiter that holds the key of a cipher
dealer_free, dealer_free_view, wide      two parties alone, over ring-LWE
slots, descent                           what the last two share: the mean function under encryption, own weights
scoring                                  joint scores
saved                                    a party's part of a model as a file
models                                   what a user writes
"""
