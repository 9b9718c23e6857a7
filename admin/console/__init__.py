"""The admin database: its wire session, from a client's bytes to an answer."""
