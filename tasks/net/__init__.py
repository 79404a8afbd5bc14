"""Calls to addresses that outsiders name, without being made to call what is not theirs."""
