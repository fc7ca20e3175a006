"""Runs dms-spec on JAX."""
