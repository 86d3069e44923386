"""A recipe whose models are trained in seconds, badly."""

SMALL = """
name = "small"
version = "1.0.0"
source = "synthetic"
[synthetic]
tracks = 800
listeners = 100
[genre]
epochs = 3
n_estimators = 10
[mood]
epochs = 3
[collab]
epochs = 3
[ranker]
epochs = 2
"""
