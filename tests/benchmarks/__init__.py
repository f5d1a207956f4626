"""Benchmarks: paired runs on one machine in one go, printed as ratios. `make bench` runs them; they assert nothing."""
