"""The NumPy reference backend of dms-spec."""
