"""Holds published methods beside DMS: policies, a signal, losses, statistics, training rules.

One module for each method, written like every other equation: over the array API, with the
namespace as an argument. Policies and signals are registered and run everywhere; losses are called
with a namespace, or from PyTorch through `dms_torch.published`.
"""
