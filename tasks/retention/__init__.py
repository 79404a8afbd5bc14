"""What is kept how long, and what sweeps away the rest; see docs/adr/0006-retention.md."""
