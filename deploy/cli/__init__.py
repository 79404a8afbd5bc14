"""The command `rmbg`."""
