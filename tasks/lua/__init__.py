"""The scripts that make each transition of a job one atomic, fenced step."""
