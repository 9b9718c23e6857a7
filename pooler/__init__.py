"""The pooler: listeners, logins, the relay, pools, and everything that decides about them.

It imports neither `admin` nor `metrics`; only `pooler.__main__` puts the three together.
"""

__version__ = "0.1.0"
