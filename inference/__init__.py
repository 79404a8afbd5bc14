"""Pixels only: decode, matte, compose, encode. No HTTP, queue, bucket or environment."""
