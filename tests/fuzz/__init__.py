"""Fuzzing of bundles whose hashes are right and whose content is hostile. Run it: python -m tests.fuzz --help"""
