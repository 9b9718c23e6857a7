"""A Grafana dashboard for the pooler, and for any PgBouncer that pgbouncer_exporter's names describe.

`dashboard.json` is to be imported as it is; `pooler metrics --print dashboard` writes it. Every expression
in it is held against the catalog and promtool by a test.
"""
