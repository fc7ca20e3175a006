"""Scores many files of Parquet: parts of their own, in several processes, to be gone on with."""
