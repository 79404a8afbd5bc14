"""Cutting out files and folders with a running service: which, into what, and what is done."""
