"""Benchmarks of training that a user can run: experiments, contestants side by side, results, and a gate."""
