"""Benchmarks: each verifies against the reference, then times. `python -m benchmarks`."""
