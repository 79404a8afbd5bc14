"""`python -m benchmarks`: all of them."""

from benchmarks import pixels, reconciler, service

pixels.main()
reconciler.main()
service.main()
