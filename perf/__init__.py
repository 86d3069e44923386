"""Benchmarks: what it costs, beside what it would cost otherwise. Nothing here is part of the product."""
