"""Places for the metrics lines: files, and the network."""
