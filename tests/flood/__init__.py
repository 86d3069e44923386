"""Attacks on a real server of our own, on this machine only: what each costs others, and whether anything leaks."""
