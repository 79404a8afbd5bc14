"""Jobs: the record and its transitions, routing, deduplication, batches, and what the API shows."""
