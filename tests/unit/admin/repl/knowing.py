"""What a prompt knows of its console, for tests."""

from __future__ import annotations

from admin.client import vocabulary
from admin.repl.background import Facts, Setting

POOL_COLUMNS = ("database", "user", "cl_active", "cl_waiting", "maxwait", "pool_mode")

WORDS = vocabulary.own().with_columns({"pools": POOL_COLUMNS, "clients": ("user", "state", "addr", "wait")})

FACTS = Facts(
    vocabulary=WORDS,
    databases=("app", "Billing-2"),
    users=("alice", "o'neil"),
    settings={
        "pool_mode": Setting("session", "session", True),
        "log_stats": Setting("1", "1", True),
        "query_timeout": Setting("30", "0", True),
        "server_reset_query": Setting("DISCARD ALL", "DISCARD ALL", True),
        "listen_port": Setting("6432", "6432", False),
    },
    clients=(("12", "alice@app active"), ("13", "bob@app waiting")),
    paused=frozenset({"app"}),
)
