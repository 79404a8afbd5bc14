"""Webhooks by Standard Webhooks 1.0.0: deliveries, attempts, retries and circuit breakers."""
