"""Resumable uploads (tus 1.0.0), which lie in the bucket."""
