"""Benchmarks of serving a bundle, in comparison with other servers of the same models."""
