"""Definitions of the metrics and the instruments that record them."""
