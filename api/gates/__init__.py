"""Whether Redis and the store answer: what is known of that, so that nobody waits for it twice."""
