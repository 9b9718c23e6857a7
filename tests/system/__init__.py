"""Whole processes: a pooler (or PgBouncer) in front of a real PostgreSQL."""
