"""A sixth part, `tempo`: the mean tempo of each family. One module in each package declares all of it."""
