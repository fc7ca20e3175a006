"""Holds the checks, one file for each family of clauses."""
