"""A dms-spec backend on array-api-strict."""
