"""Runs schedulers in NumPy with compiled primitives: one pass over memory, on every core."""
