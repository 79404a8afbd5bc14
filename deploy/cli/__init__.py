"""The commands of `rmbg`."""
