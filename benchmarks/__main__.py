"""`python -m benchmarks`: all of them but `rmbg bench`."""

from benchmarks import pixels, reconciler

pixels.main()
reconciler.main()
