"""Benchmarks of pfs beside what it is compared with.  `python -m benchmarks` runs them; see `benchmarks.harness`."""
