"""`python -m benchmarks`: all of them."""

from benchmarks import service

service.main()
