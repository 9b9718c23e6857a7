"""The configuration: what may be said, how it is read, and one frozen value of it."""
