"""Holds every equation of the specification, once, over the Python array API.

No module here imports a framework: each function takes the namespace that it computes in.
"""
