"""The checks, one file for each family of clauses."""
