"""The object store and the keys of its objects."""
