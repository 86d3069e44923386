"""The musix-edge exporter: from a run folder to a bundle."""
