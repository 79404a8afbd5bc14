"""Tells others of an end: signed, retried, watched, replayed (Standard Webhooks 1.0.0)."""
