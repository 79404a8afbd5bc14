"""The version of the pixels: it is part of every cache key."""

#: Raised with every change that alters a result's pixels for the same input, options and model; the
#: golden images in tests/golden pin what one version yields.
PIPELINE_VERSION = 1
