"""From a spec to a schedule: names are resolved, the pipeline computes, the scheduler checks."""
