"""Measurements of the whole service: `rmbg bench service`."""
