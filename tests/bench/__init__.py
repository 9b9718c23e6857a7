"""The benchmark: our pooler and Debian's pgbouncer in turn, on one PostgreSQL, judged by ratios of the two.

`python -m tests.bench --help`. Not a test: nothing here passes or fails. Read ratios, not absolute figures:
both contestants meet the same machine, the same clients and the same moment, round by round.
"""
