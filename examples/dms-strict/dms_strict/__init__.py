"""Runs dms-spec on array-api-strict."""
