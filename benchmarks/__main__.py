"""`python -m benchmarks`: all of them."""

from benchmarks import pixels, service

pixels.main()
service.main()
