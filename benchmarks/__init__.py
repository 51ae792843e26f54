"""Benchmarks of this package and of comparable programs; `make bench` runs them and writes RESULTS.md."""
