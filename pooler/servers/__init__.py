"""The way to PostgreSQL: dialling, logging in, and when to."""
