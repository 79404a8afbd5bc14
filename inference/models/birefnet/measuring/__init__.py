"""How fast and how large the ways to run a network are here."""
