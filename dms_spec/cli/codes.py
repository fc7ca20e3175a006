"""Lists the exit codes of the command line."""

GOOD, NOT_CONFORMANT, BAD_INPUT, OUT_OF_TOLERANCE, UNAVAILABLE = range(5)
DEFECT = 70  # the usual number for "software"; Python's own, 1, is taken
DIFFERENT = NOT_CONFORMANT  # as the program `diff` ends
