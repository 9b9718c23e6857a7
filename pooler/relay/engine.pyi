"""Types of the compiled relay; see engine.pyx and the files it includes for what it does."""

from array import array
from asyncio import AbstractEventLoop
from collections.abc import Callable, Generator, Iterable
from selectors import BaseSelector, SelectorKey
from typing import Any, TypeVar

WANT_SERVER: int
CLIENT_LOST: int
SERVER_LOST: int
SERVER_READY: int
SERVER_SAID: int
FAULT: int
SESSION: int
TRANSACTION: int
STATEMENT: int
NARROW: int

Tls = tuple[object, object, object]

def clock() -> int: ...
def bucket_index(value: int) -> int: ...

class Gauge:
    def __init__(self, now: int, narrow: bool) -> None: ...
    def gain(self, n: int) -> int: ...
    def look(self, now: int) -> int: ...

class ConnList:
    count: int
    def all(self) -> list[Any]: ...

class Conn:
    pool: Pool
    id: int
    fd: int
    about: Any
    close_needed: bool
    bound: bool
    state_name: str
    is_lost: bool
    has_tls: bool
    is_direct: bool
    connect_us: int
    request_us: int
    prepared_count: int
    parameters: tuple[bytes | None, ...]
    pending: tuple[int, int, int]
    def send(self, data: bytes) -> None: ...
    def finish(self, farewell: bytes) -> None: ...
    def carry_on(self) -> None: ...

class Client(Conn):
    key: int
    linked: Server | None
    wait_us: int
    notified: bool
    quiet: bool
    def cancel_queued(self, error: bytes) -> bool: ...

class Newcomer:
    pool: None
    id: int
    remote: tuple[str, int]
    local: tuple[str, int]
    def fileno(self) -> int: ...
    def receive(self, most: int) -> bytes | None: ...
    def send(self, data: bytes) -> int: ...
    def watch(self, wake: Callable[[], object]) -> None: ...
    def unwatch(self) -> None: ...
    def detach(self) -> int: ...
    def setsockopt(self, level: int, option: int, value: int) -> None: ...

class Server(Conn):
    linked: Client | None
    pid: int
    cancel_key: bytes
    cancels: int
    manner_name: str
    in_transaction: bool
    is_clean: bool
    idle_us: int
    def cancel_begins(self) -> None: ...
    def cancel_ends(self) -> None: ...
    def check(self) -> None: ...

class Pool:
    database: str
    user: str
    active_clients: ConnList
    waiting_clients: ConnList
    idle_servers: ConnList
    used_servers: ConnList
    tested_servers: ConnList
    active_servers: ConnList
    canceled_servers: ConnList
    mode: int
    max_prepared: int
    round_robin: bool
    paused: bool
    full: bool
    fast_close: bool
    reset_always: bool
    refuse_simple: bool
    reset_query: bytes
    check_query: bytes | None
    check_delay: int
    lifetime: int
    lifetime_gap: int
    owner: Any
    failing: str | None
    oldest_wait: int
    server_count: int
    def __init__(self, relay: Relay, database: str, user: str) -> None: ...
    def login_took(self, microseconds: int) -> None: ...
    def resume(self) -> None: ...
    def retires(self, server: Server) -> bool: ...
    def age_idle(self) -> None: ...
    def idle_clients(self, limit: int) -> list[Client]: ...
    def long_servers(self, query_limit: int, idle_limit: int, xact_limit: int) -> list[tuple[Server, str]]: ...
    def servers(self) -> list[Server]: ...
    def clients(self) -> list[Client]: ...
    def counted(self) -> tuple[int, ...]: ...
    def histograms(self) -> tuple[tuple[array[int], int], ...]: ...

class Wait:
    done: bool
    _asyncio_future_blocking: bool
    def __init__(self, loop: AbstractEventLoop) -> None: ...
    def __await__(self) -> Generator[Wait]: ...
    def end(self) -> None: ...

class Relay(BaseSelector):
    now: int
    events: list[tuple[Any, ...]]
    suspended: bool
    max_packet: int
    max_statement_bytes: int
    tls_direct: bool
    """Whether OpenSSL is called without Python in between, where that can be done; True at first."""
    tracked_names: tuple[bytes, ...]
    statement_count: int
    no_ring: str
    def __init__(self, tracked: Iterable[bytes] = ..., io_uring: bool = True) -> None: ...
    def on_events(self, wake: Callable[[], object]) -> None: ...
    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey: ...
    def unregister(self, fileobj: Any) -> SelectorKey: ...
    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]: ...
    def get_map(self) -> Any: ...
    def changed(self, params: tuple[bytes | None, ...], place: int, value: bytes) -> tuple[bytes | None, ...]: ...
    def stamp(self) -> int: ...
    def breathe(self) -> None: ...
    def pace(self) -> None: ...
    @property
    def longest_turn(self) -> tuple[int, int]: ...
    def end_period(self) -> None: ...
    def find(self, key: bytes) -> Client | None: ...
    def accept(self, listener: int) -> Newcomer | None: ...
    def drop(self, connection: Conn, reason: str, tell: bool = True) -> None: ...
    def adopt_client(
        self,
        pool: Pool,
        number: int,
        fd: int,
        tls: Tls | None,
        leftover: bytes,
        params: Iterable[bytes | None],
        about: object,
        key: bytes,
        since: int | None = None,
    ) -> Client: ...
    def adopt_server(
        self,
        pool: Pool,
        number: int,
        fd: int,
        tls: Tls | None,
        leftover: bytes,
        params: Iterable[bytes | None],
        about: object,
        pid: int,
        key: bytes,
        since: int | None = None,
        client: Client | None = None,
    ) -> Server: ...

State = dict[str, Any]
Row = TypeVar("Row")

class Statement:
    text: bytes
    server_name: bytes

class Held: ...

def plain(value: Row) -> Row: ...

class Instant:
    wall: float
    stamp: int
    def __init__(self, wall: float, stamp: int) -> None: ...
    def wall_of(self, stamp: int) -> float: ...

def socket_rows(
    relay: Relay,
    connections: list[Any],
    row: type[Row],
    names: tuple[str, ...],
    pointer: Callable[[int], str],
    at: Instant,
    user: str | None = None,
    database: str | None = None,
) -> list[Row]: ...
def record(connection: Conn, table: dict[int, tuple[bytes, bool]]) -> State: ...
def statement(relay: Relay, number: int, body: bytes, shared: bool) -> Statement: ...
def number_statements_from(relay: Relay, number: int) -> None: ...
def last_statement(relay: Relay) -> int: ...
def revive_client(
    pool: Pool, fd: int, state: State, params: Iterable[bytes | None], about: object, table: dict[int, Statement]
) -> Client: ...
def revive_server(
    pool: Pool, fd: int, state: State, params: Iterable[bytes | None], about: object, table: dict[int, Statement]
) -> Server: ...
def tie(client: Client, server: Server) -> None: ...
def abandon(connection: Conn) -> None: ...
