"""Attacks on a real server on this machine: their effect on other clients, and leaks."""
