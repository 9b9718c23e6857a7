"""SETTINGS: every setting of [pgbouncer], and OWN: those of [pooler], which is ours. Each is one line of a
table.

The attribute's name is the key, its type what the pooler works with (seconds are floats), and its metadata is
the row that parsing, SET, RELOAD, SHOW CONFIG and the documentation read. Nothing is parsed here: see
`kinds`, `config`.
"""

from __future__ import annotations

from pooler.config.kinds import (
    ADDRESS,
    FLAG,
    INT,
    MAYBE,
    NAMES,
    OUTPUTS,
    PORT,
    SWITCH,
    TEXT,
    TIME,
    UINT,
    WORKERS,
    AuthType,
    LogFormat,
    PoolMode,
    SslMode,
    SyslogFacility,
    integer,
    masking,
    setting,
    table,
    word,
)
from pooler.config.policy import POLICY, Policy
from pooler.values import dataclass

AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END "
    "FROM pg_authid WHERE rolname=$1 AND rolcanlogin"
)
AUTH_TYPE = word(AuthType, refused=(AuthType.peer, AuthType.reject))
SSL_MODE = word(SslMode)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of [pgbouncer]."""

    admin_users: tuple[str, ...] = setting(NAMES, "", "Users who may do everything on the console.")
    application_name_add_host: bool = setting(
        FLAG, "0", "Append the client's address and port to its application_name at login."
    )
    auth_dbname: str | None = setting(
        MAYBE,
        None,
        "Entry of [databases] in which auth_query runs; unset: the client's own database.",
    )
    auth_file: str | None = setting(MAYBE, None, "File of user names and secrets.")
    auth_hba_file: str = setting(TEXT, "", "HBA rules, for auth_type hba.")
    auth_ident_file: str | None = setting(MAYBE, None, "User name maps that HBA rules name.")
    auth_ldap_options: str | None = setting(MAYBE, None, "How to reach the LDAP server, for ldap.", secret=True)
    auth_query: str = setting(TEXT, AUTH_QUERY, "Query that gives a user's name and secret.")
    auth_type: AuthType = setting(AUTH_TYPE, "md5", "How clients prove who they are.")
    auth_user: str | None = setting(MAYBE, None, "Role that runs auth_query for users who are not in auth_file.")
    autodb_idle_timeout: float = setting(TIME, "3600", "Forget a database made of `*` idle for so long; 0: at once.")
    cancel_wait_timeout: float = setting(TIME, "10", "How long a cancel request may wait for a connection to carry it.")
    client_idle_timeout: float = setting(TIME, "0", "Disconnect clients idle for longer; 0: never.")
    client_login_timeout: float = setting(TIME, "60", "Disconnect clients whose login takes longer; 0: never.")
    client_tls13_ciphers: str | None = setting(MAYBE, None, "TLS 1.3 ciphers clients may use.")
    client_tls_ca_file: str = setting(TEXT, "", "Authorities that client certificates must come from.")
    client_tls_cert_file: str = setting(TEXT, "", "Certificate shown to clients.")
    client_tls_ciphers: str = setting(TEXT, "default", "Ciphers clients may use up to TLS 1.2.")
    client_tls_dheparams: str = setting(TEXT, "auto", "Diffie-Hellman key size: auto, none or legacy.")
    client_tls_ecdhcurve: str = setting(TEXT, "auto", "Elliptic curve of the key exchange, or auto.")
    client_tls_key_file: str = setting(TEXT, "", "Private key of client_tls_cert_file.")
    client_tls_protocols: str = setting(TEXT, "secure", "TLS versions clients may use.")
    client_tls_sslmode: SslMode = setting(SSL_MODE, "disable", "Whether clients use TLS, and must.")
    conffile: str | None = setting(MAYBE, None, "The file the next RELOAD reads.")
    default_pool_size: int = setting(INT, "20", "Server connections per database and user; 0: no limit.")
    disable_pqexec: bool = setting(FLAG, "0", "Refuse the simple query protocol.", live=False)
    dns_max_ttl: float = setting(TIME, "15", "How long an answer of the DNS is used.")
    dns_nxdomain_ttl: float = setting(TIME, "15", "How long a failed DNS look-up is remembered.")
    dns_zone_check_period: float = setting(
        TIME, "0", "How often zone serials are compared; 0: never.", idle="the system's resolver does not tell of zones"
    )
    idle_transaction_timeout: float = setting(
        TIME, "0", "Disconnect clients idle in a transaction for longer; 0: never."
    )
    ignore_startup_parameters: tuple[str, ...] = setting(
        NAMES, "", "Startup parameters to accept and drop; `options` drops what options holds."
    )
    job_name: str = setting(TEXT, "pgbouncer", "Another name of service_name.", live=False)
    listen_addr: tuple[str, ...] = setting(
        NAMES, "", "Addresses to listen on, by commas; * is all, empty none.", live=False
    )
    listen_backlog: int = setting(
        integer(below=2**31 - 1), "128", "Connections the kernel queues before accept.", live=False
    )
    listen_port: int = setting(PORT, "6432", "Port of the TCP and Unix sockets.", live=False)
    log_connections: bool = setting(FLAG, "1", "Log logins.")
    log_disconnections: bool = setting(FLAG, "1", "Log disconnections and their reasons.")
    log_pooler_errors: bool = setting(FLAG, "1", "Log the errors sent to clients.")
    log_stats: bool = setting(FLAG, "1", "Log a line of statistics every stats_period.")
    logfile: str = setting(TEXT, "", "File the log goes to.")
    login_notify_message: str = setting(TEXT, "", "Notice sent to clients when they have logged in.")
    max_client_conn: int = setting(INT, "100", "Client connections allowed; 0: none at all.")
    max_db_client_connections: int = setting(INT, "0", "Client connections allowed per database; 0: no limit.")
    max_db_connections: int = setting(INT, "0", "Server connections allowed per database; 0: no limit.")
    max_packet_size: int = setting(UINT, "2147483647", "Largest protocol message let through, in bytes.")
    max_prepared_statements: int = setting(
        integer(below=1),
        "200",
        "Prepared statements kept per server in transaction and statement mode; 0: none.",
    )
    max_user_client_connections: int = setting(INT, "0", "Client connections allowed per user; 0: no limit.")
    max_user_connections: int = setting(INT, "0", "Server connections allowed per user; 0: no limit.")
    min_pool_size: int = setting(INT, "0", "Open servers until a pool has this many.")
    peer_id: int = setting(integer(0, 65535, above=0), "0", "Number of this process among its [peers]; 0: none.")
    pidfile: str = setting(TEXT, "", "File that holds the process id; a daemon needs one.", live=False)
    pkt_buf: int = setting(INT, "4096", "Size of buffers.", live=False, idle="buffers here have a size of their own")
    pool_idle_timeout: float = setting(TIME, "0", "Forget a pool unused for this long; 0: never.")
    pool_mode: PoolMode = setting(word(PoolMode), "session", "When a server goes back to its pool.")
    query_timeout: float = setting(TIME, "0", "Cancel queries that run longer; 0: never.")
    query_wait_notify: int = setting(INT, "5", "Tell a client that it is queued after this many seconds; 0: never.")
    query_wait_timeout: float = setting(TIME, "120", "Disconnect clients queued for longer; 0: never.")
    reserve_pool_size: int = setting(INT, "0", "Further server connections for a pool whose clients wait.")
    reserve_pool_timeout: float = setting(TIME, "5", "Use the reserve when a client has waited this long; 0: never.")
    resolv_conf: str = setting(
        TEXT, "", "A resolv.conf of our own.", live=False, idle="the system's resolver looks up names"
    )
    sbuf_loopcnt: int = setting(
        INT, "5", "How long one connection may be worked for.", idle="fairness between connections is built in here"
    )
    scram_iterations: int = setting(
        integer(1, below=4096), "4096", "Iterations when a SCRAM secret is made of a plain password."
    )
    server_check_delay: float = setting(TIME, "30", "Check a server idle for longer before it is used again.")
    server_check_query: str = setting(
        TEXT, "<empty>", "The query of that check; <empty> is an empty query, empty is no check."
    )
    server_connect_timeout: float = setting(TIME, "15", "Give up a server whose login takes longer.")
    server_fast_close: bool = setting(FLAG, "0", "In session mode, close outdated servers between transactions.")
    server_idle_timeout: float = setting(TIME, "600", "Close servers idle for longer; 0: never.")
    server_lifetime: float = setting(TIME, "3600", "Close unused servers older than this; 0: each is used once.")
    server_login_retry: float = setting(TIME, "15", "Wait this long after a failed server login.")
    server_reset_query: str = setting(TEXT, "DISCARD ALL", "Query that cleans a server when its client leaves.")
    server_reset_query_always: bool = setting(FLAG, "0", "Run server_reset_query in every pool mode.")
    server_round_robin: bool = setting(FLAG, "0", "Use the longest idle server first, not the latest.")
    server_tls13_ciphers: str | None = setting(MAYBE, None, "TLS 1.3 ciphers for servers.")
    server_tls_ca_file: str = setting(TEXT, "", "Authorities that server certificates must come from.")
    server_tls_cert_file: str = setting(TEXT, "", "Certificate shown to servers.")
    server_tls_ciphers: str = setting(TEXT, "default", "Ciphers for servers up to TLS 1.2.")
    server_tls_key_file: str = setting(TEXT, "", "Private key of server_tls_cert_file.")
    server_tls_protocols: str = setting(TEXT, "secure", "TLS versions for servers.")
    server_tls_sslmode: SslMode = setting(SSL_MODE, "prefer", "Whether servers are spoken to over TLS.")
    service_name: str | None = setting(MAYBE, None, "Name of the service.", live=False, hidden=True)
    so_reuseport: bool = setting(FLAG, "0", "Let several processes listen on one port.", live=False)
    stats_period: int = setting(integer(1), "60", "Seconds between turns of the averages and their log line.")
    stats_users: tuple[str, ...] = setting(NAMES, "", "Users who may only look on the console.")
    suspend_timeout: float = setting(TIME, "10", "How long SUSPEND waits for buffers to empty.", hidden=True)
    syslog: bool = setting(FLAG, "0", "Send the log to syslog.")
    syslog_facility: SyslogFacility = setting(word(SyslogFacility), "daemon", "syslog's facility.")
    syslog_ident: str = setting(TEXT, "pgbouncer", "Name to use in syslog.")
    tcp_defer_accept: int = setting(INT, "1", "Wake up for a client when its first bytes are there; 0: at once.")
    tcp_keepalive: bool = setting(FLAG, "1", "Keepalive on TCP connections.")
    tcp_keepcnt: int = setting(integer(0, 127), "0", "Lost probes before a connection is dead; 0: the system's.")
    tcp_keepidle: int = setting(integer(0, 32767), "0", "Idle seconds before the first probe; 0: the system's.")
    tcp_keepintvl: int = setting(integer(0, 32767), "0", "Seconds between probes; 0: the system's.")
    tcp_socket_buffer: int = setting(INT, "0", "Size of socket buffers; 0: the system's.")
    tcp_user_timeout: int = setting(INT, "0", "Milliseconds sent data may stay unacknowledged; 0: the system's.")
    track_extra_parameters: tuple[str, ...] = setting(NAMES, "", "Further parameters that follow a client.", live=False)
    transaction_timeout: float = setting(TIME, "0", "Disconnect clients whose transaction lasts longer; 0: never.")
    unix_socket_dir: str = setting(TEXT, "/tmp", "Directory of the Unix socket; empty: none, @: abstract.", live=False)
    unix_socket_group: str = setting(TEXT, "", "Group of the Unix socket.", live=False)
    unix_socket_mode: int = setting(masking(12), "0777", "Mode of the Unix socket.", live=False)
    user: str | None = setting(MAYBE, None, "System user to become after start.", live=False)
    verbose: int = setting(INT, None, "How much more to log, as -v does.", unset=0)


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """The settings of [pooler]. PgBouncer has none of them."""

    drain_delay: float = setting(
        TIME, "0", "How long clients still come in when /readyz says no and the last one is waited for; 0: not."
    )
    http: tuple[str, int] | None = setting(ADDRESS, "", "HOST:PORT of the HTTP server; empty: none.", live=False)
    http_details: bool = setting(
        SWITCH, "no", "The page shows clients, servers, log and configuration beyond loopback too."
    )
    io_uring: bool = setting(
        SWITCH, "yes", "Send what a turn of the loop sends in one system call, if the kernel can.", live=False
    )
    log_format: LogFormat = setting(
        word(LogFormat), "text", "Lines of the log as PgBouncer's text, or as json: one object a line."
    )
    metrics: tuple[str, ...] = setting(OUTPUTS, "", "Where metrics lines go, by commas; empty: nowhere.", secret=True)
    metrics_extra: bool = setting(SWITCH, "no", "Add percentiles and counters to the metrics line.")
    metrics_period: float = setting(TIME, "60", "Seconds between metrics lines; 0: none.")
    max_pinned: int = setting(
        integer(-1), "-1", "Servers of a pool that may stay with their clients for session state; -1: half of its size."
    )
    peers_name: str = setting(
        TEXT, "", "Name of a headless service whose pods are peers, each by its host's name; empty: none.", live=False
    )
    pin_timeout: float = setting(TIME, "0", "Disconnect clients whose pinned server is idle for longer; 0: never.")
    sequence_timeout: float = setting(
        TIME, "1", "How long an idle server stays with who has drawn from a sequence, where clients ask for that later."
    )
    session_state: Policy = setting(
        POLICY, "leak", "What becomes of session state in transaction pooling: keep, leak or refuse; kind:fate too."
    )
    state: str = setting(TEXT, "", "URL of the control plane's state; empty: none.", live=False, secret=True)
    workers: int = setting(
        WORKERS, "1", "Processes that share the work behind one port and one console; auto: one a core.", live=False
    )


SETTINGS = table(Settings)
OWN = table(OwnSettings)
