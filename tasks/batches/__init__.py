"""Many pictures in one request: each is a job of its own, and the batch counts their ends."""
