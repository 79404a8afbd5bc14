"""remove.bg's API, version 1.0, answered by this service: a thin adapter over the same tasks."""
