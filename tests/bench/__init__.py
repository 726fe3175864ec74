"""Benchmarks: scripts that measure and write a JSON file each, `python -m tests.bench.train`. Nothing here asserts a speed."""
