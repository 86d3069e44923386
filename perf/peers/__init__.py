"""Peers: servers that answer the same questions from the same models, each a process of its own."""
