"""The figures of the pooler for people and machines outside: log lines, Prometheus, the live page.

Of `pooler` this package sees `pooler.stats` only.
"""
