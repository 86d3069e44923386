"""The musix-edge trainer: from a recipe and tables to a run folder of trained parts."""
