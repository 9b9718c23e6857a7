"""What SET may be given: the legal values of settings, for completion only.

The console itself judges a value; this table only saves looking it up. Names and values are PgBouncer's.
Settings not listed take free text or a number, and completion offers their present value and their default.
"""

from __future__ import annotations

SWITCH = ("0", "1")
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PROTOCOLS = ("secure", "all", "legacy", "tlsv1.2", "tlsv1.3")
CIPHERS = ("default", "secure", "fast", "normal", "all")

VALUES: dict[str, tuple[str, ...]] = {
    "auth_type": (
        "any", "trust", "plain", "md5", "scram-sha-256", "cert", "hba", "pam", "ldap",
    ),
    "pool_mode": ("transaction", "session", "statement"),
    "client_tls_sslmode": SSLMODES,
    "server_tls_sslmode": SSLMODES,
    "client_tls_protocols": PROTOCOLS,
    "server_tls_protocols": PROTOCOLS,
    "client_tls_ciphers": CIPHERS,
    "server_tls_ciphers": CIPHERS,
    "syslog_facility": ("daemon", "auth", "authpriv", "user", *(f"local{n}" for n in range(8))),
    "verbose": ("0", "1", "2", "3"),
    **dict.fromkeys(
        (
            "application_name_add_host", "disable_pqexec", "log_connections", "log_disconnections",
            "log_pooler_errors", "log_stats", "server_fast_close", "server_reset_query_always",
            "server_round_robin", "so_reuseport", "syslog", "tcp_keepalive",
        ),
        SWITCH,
    ),
}  # fmt: skip
