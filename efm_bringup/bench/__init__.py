"""Benchmarks of the suite's parts; every one measures a baseline in the same run."""
