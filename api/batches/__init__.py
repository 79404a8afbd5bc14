"""Batches: many pictures in one request, each a task of its own."""
