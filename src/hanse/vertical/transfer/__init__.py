"""Federated transfer learning: what a labelled company knows, for a company that shares few customers with it.

mathematics     the model, its loss and the gradients, once, in the clear
dealer          the role programs: gradients over shared secrets, with the arbiter as dealer
models          `hs.vertical.TransferLearning`, and predictions with what the host kept
"""
