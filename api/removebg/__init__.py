"""remove.bg's API 1.0, a thin adapter over the tasks of `api`."""
