"""The handlers: each reads its arguments, calls a service and shows the outcome."""
