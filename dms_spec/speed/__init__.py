"""Times schedulers against what the machine allows, measured in the same run."""
