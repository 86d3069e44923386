"""Perf: how fast the bundle is served, measured beside what a team would serve otherwise."""
