"""The command line, the local supervisor of `rmbg up`, the doctor, and container files."""
