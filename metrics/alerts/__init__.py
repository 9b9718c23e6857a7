"""Prometheus alert rules for the pooler: `pooler.yml`, also written by `pooler metrics --print alerts`.

Rules on pgbouncer_ names hold for a PgBouncer behind pgbouncer_exporter too. Their thresholds are where a person should
look, and each says what to look at.
"""
