"""Outbound HTTP calls to URLs that clients name."""
