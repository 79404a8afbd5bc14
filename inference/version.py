"""The project's version, and the version of the pixels that it produces."""

#: Read by the build; every other place imports it.
__version__ = "0.1.0"

#: Part of every cache key. Raise it with every change that alters a result's pixels for an
#: unchanged input, options and model; the golden images in tests/golden pin what a version yields.
PIPELINE_VERSION = 9
