"""The way in: from an accepted socket to a client of a pool, a cancelled query or a refusal."""
