"""The project's version, and the version of the pixels that it produces."""

__version__ = "0.1.0"

#: Raised with every change that alters a result's pixels for the same input, options and model; the
#: golden images in tests/golden pin what one version yields.
PIPELINE_VERSION = 1
