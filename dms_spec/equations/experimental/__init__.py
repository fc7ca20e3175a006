"""Holds methods whose equations are not public. They are reconstructed, and marked so wherever they
are named.

Each docstring says what is known and what is guessed. They may change without notice, and are no
part of the specification.
"""
