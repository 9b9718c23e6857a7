"""Reasons: what the pooler counts that is rare, and why it happened, as two closed lists.

The value of a reason is the sentence that the log has for it. A sentence of the relay's, or one that goes on with
what a peer said, is found by its beginning. The rule: what strangers or servers say is never a reason, for reasons are
labels in the metrics.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What is counted."""

    __hash__ = str.__hash__
    # An Enum's own is written in Python, and these are counted by.

    CONNECT = "connect"
    DISCONNECT = "disconnect"
    CLOSE = "close"
    ERROR = "error"
    TIMEOUT = "timeout"
    LOGIN = "login"
    NOTIFICATION = "notification"


class Reason(StrEnum):
    """Why."""

    __hash__ = str.__hash__

    # Logins of clients
    LEFT = "left"
    REFUSED = "refused"
    # Servers that are opened
    SERVER = "server"
    SERVER_CONNECT = "server connect"
    SERVER_LOGIN = "server login"
    SERVER_CROWDED = "server has no more connections"
    # Faults of ours
    EVENT = "event"
    FAULT = "fault"
    FAILURE = "failure"
    EXHAUSTED = "bouncer resources exhaustion"
    # Clients that leave
    CLIENT_CLOSE = "client close request"
    CLIENT_EOF = "client unexpected eof"
    # What clients do that is not done
    UNKNOWN_PACKET = "unknown pkt"
    BAD_PACKET_HEADER = "bad packet header"
    BROKEN_PARSE = "broken Parse packet"
    BROKEN_BIND = "broken Bind packet"
    BROKEN_DESCRIBE = "broken Describe packet"
    BROKEN_CLOSE = "broken Close packet"
    BROKEN_FLUSH = "broken Flush packet"
    SIMPLE_QUERY = "PQexec disallowed"
    TRANSACTION = "transaction blocks not allowed in statement pooling mode"
    TOO_MANY_STATEMENTS = "prepared statements need too much memory"
    STATE_REFUSED = "session state is refused, in a statement too long to be read"
    NOTIFICATIONS = "too many notifications wait for this client"
    UNKNOWN_STATEMENTS = "it cannot be told which statements there are"
    # Clients that wait in vain
    SERVER_FAILED = "server login failed"
    SERVER_FAILING = "server login has been failing, cached error"
    """Told to those who come while server_login_retry lasts."""
    SERVER_SHUTTING = "server shutting down"
    # What servers do
    SERVER_CRASHED = "server conn crashed?"
    BAD_PKT_HEADER = "bad pkt header"
    BAD_PACKET = "bad packet"
    BROKEN_STATUS = "broken ParameterStatus packet"
    IDLE_DIRTY = "idle server got dirty"
    USED_DIRTY = "SV_USED server got dirty"
    INCOMPLETE = "incomplete packet from server"
    BAD_PARAMETER = "invalid server parameter"
    RESET_FAILED = "reset query failed"
    TEST_FAILED = "test query failed"
    STATE_UNKNOWN = "session state is not known"
    ROLLBACK_FAILED = "rollback failed"
    DISCARD_FAILED = "discard failed"
    LISTENING_FAILED = "channels could not be handed over"
    LOGIN_FAILED = "login failed"
    """A server that refused a replication client; the client ends with it."""
    # Clients that leave their server as nobody else can have it
    REPLICATION_LEFT = "replication client was closed"
    UNSENT = "client disconnect before everything was sent to the server"
    QUERY_IN_PROGRESS = "client disconnected with query in progress"
    NOT_READY = "client disconnect while server was not ready"
    # Listening servers
    MISSED = "lost"
    """The one that a database has: what was notified meanwhile is missed."""
    NOBODY_LISTENS = "nobody listens any more"
    # Servers that go in their time
    LOADED = "a library was loaded"
    OBSOLETE = "obsolete connection"
    CLOSE_NEEDED = "close_needed"
    LIFETIME = "server lifetime over"
    SERVER_IDLE = "server idle timeout"
    SURPLUS = "too many servers in the pool"
    EVICTED_FOR_POOL = "evicted for pool_size"
    EVICTED_FOR_DATABASE = "evicted for max_db_connections"
    EVICTED_FOR_USER = "evicted for max_user_connections"
    # What takes too long
    QUERY_WAIT = "query_wait_timeout"
    QUERY_WAITS = "query_timeout"
    """Of a query that has no server yet."""
    QUERY_RUNS = "query timeout"
    PIN_IDLE = "pin_timeout"
    CLIENT_IDLE = "client_idle_timeout"
    TRANSACTION_IDLE = "idle transaction timeout"
    TRANSACTION_RUNS = "transaction timeout"
    SUSPEND = "suspend_timeout"
    # An administrator's word
    PAUSED = "pause mode"
    FORCED = "admin forced disconnect"
    OUTDATED = "database configuration changed"
    MOVED = "connect string changed"
    REMOVED = "database removed"
    """A database that has left the configuration, or was hit by KILL."""
    ENDING = "pooler is shutting down"
    # Questions of auth_query
    ANSWERED = "auth_query answered"
    NO_ANSWER = "error response from auth_query"
    NOT_UNDERSTOOD = "unexpected response from auth_query"
    COLUMNS = "expected 2 columns from auth_query"
    # What should not be
    OTHER = "other"
    """A sentence that is none of these."""

    @classmethod
    def of(cls, sentence: str) -> Reason | None:
        """Whose sentence this is, or the beginning of it."""
        known = BY_SENTENCE.get(sentence)
        if known is None:
            known = BY_SENTENCE.get(sentence.partition(":")[0]) or BY_SENTENCE.get(sentence.partition(", not ")[0])
        return known


BY_SENTENCE: dict[str, Reason] = {reason.value: reason for reason in Reason}
LEAVING = (Reason.CLIENT_CLOSE, Reason.CLIENT_EOF)
"""Ends that are the client's own."""
