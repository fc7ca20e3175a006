"""Runs schedulers in NumPy: the reference backend of dms-spec."""
