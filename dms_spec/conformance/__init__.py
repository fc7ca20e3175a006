"""Conformance: the clauses, the oracle, and the checks that hold a backend to them.

Importing this package costs nothing; `checks` needs hypothesis (``pip install
'dms-spec[conformance]'``).
"""
