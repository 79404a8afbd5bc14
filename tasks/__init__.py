"""Jobs, queues, storage and the workers that run them."""
