"""The golden vectors' cases, one module for each group of families."""
