"""A dms-spec backend on JAX."""
