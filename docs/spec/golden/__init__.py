"""Holds the cases of the golden vectors, one module for each group of families."""
