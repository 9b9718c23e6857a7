"""The HTTP front: figures, lines and the live page."""
