"""Exit codes of the command line."""

GOOD, NOT_CONFORMANT, BAD_INPUT, OUT_OF_TOLERANCE, UNAVAILABLE = range(5)
DEFECT = 70  # the usual number for "software"; Python's own would be 1, which is taken
