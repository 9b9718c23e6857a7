"""Types of the compiled relay; see engine.pyx and the files it includes for what it does."""

from array import array
from asyncio import AbstractEventLoop
from collections.abc import Callable, Generator, Iterable
from contextvars import Context
from selectors import BaseSelector, SelectorKey
from ssl import MemoryBIO, SSLContext, SSLObject
from typing import Any, TypeVar

from typing_extensions import disjoint_base

from pooler.relay.events import Event
from pooler.relay.records import State, StatementTable, Tls
from pooler.touches import Touch

SESSION: int
TRANSACTION: int
STATEMENT: int
NARROW: int
OWED_BYTES: int
READ_MODES: tuple[str, ...]
STATES: tuple[str, ...]

def clock() -> int: ...
def set_ciphersuites(context: SSLContext, names: bytes) -> str | None: ...
def demand_protocol(context: SSLContext) -> bool: ...
def key_exchange(made: SSLObject, incoming: MemoryBIO, outgoing: MemoryBIO) -> str: ...
def bucket_index(value: int) -> int: ...

@disjoint_base
class Batch: ...

@disjoint_base
class Gauge:
    def __init__(self, now: int, narrow: bool) -> None: ...
    def gain(self, n: int) -> int: ...
    def look(self, now: int) -> int: ...

@disjoint_base
class Ledger:
    count: int
    length: int
    fence: bytes | None
    resting: bool
    modes: list[tuple[int, int]]
    def send(self, kind: str, act: int = ..., stmt: Statement | None = ..., name: bytes | None = ...) -> None: ...
    def hear(self, kind: str) -> int: ...
    def record(self) -> State: ...
    def revive(self, state: State) -> None: ...
    def take_undone(self) -> list[tuple[int, int, Statement, bytes | None]]: ...

@disjoint_base
class ConnList:
    count: int
    def all(self) -> list[Any]: ...

@disjoint_base
class Socket:
    id: int
    fd: int

@disjoint_base
class Conn(Socket):
    pool: Pool
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
    buffers: tuple[int, int]
    pending: tuple[int, int, int]
    unattended: str
    unread: int
    is_deaf: bool
    room: int
    def send(self, data: bytes) -> None: ...
    def finish(self, farewell: bytes) -> None: ...
    def carry_on(self) -> None: ...

@disjoint_base
class Client(Conn):
    key: int
    linked: Server | None
    wait_us: int
    notified: bool
    quiet: bool
    def cancel_queued(self, error: bytes) -> bool: ...

@disjoint_base
class Newcomer(Socket):
    remote: tuple[str, int]
    local: tuple[str, int]
    def fileno(self) -> int: ...
    def receive(self, most: int) -> bytes | None: ...
    def send(self, data: bytes) -> int: ...
    def watch(self, wake: Callable[[], object]) -> None: ...
    def unwatch(self) -> None: ...
    def detach(self) -> int: ...
    def setsockopt(self, level: int, option: int, value: int) -> None: ...

@disjoint_base
class Server(Conn):
    linked: Client | None
    pid: int
    cancel_key: bytes
    cancels: int
    read_mode_name: str
    in_transaction: bool
    is_clean: bool
    is_aligning: bool
    idle_us: int
    pinned: int
    pinned_since: int
    def cancel_begins(self) -> None: ...
    def cancel_ends(self) -> None: ...
    def check(self) -> None: ...

@disjoint_base
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
    kept: int
    refused: int
    watches: bool
    max_pinned: int
    pinned_count: int
    reset_query: bytes
    check_query: bytes | None
    check_delay: int
    lifetime: int
    lifetime_gap: int
    owner: Any
    failing: str | None
    told: dict[bytes, bytes] | None
    rival: int
    oldest_wait: int
    missing: int
    server_count: int
    server_lists: dict[str, ConnList]
    def __init__(self, relay: Relay, database: str, user: str) -> None: ...
    def take_seen(self) -> dict[Touch, int]: ...
    def login_took(self, microseconds: int) -> None: ...
    def waited(self, microseconds: int) -> None: ...
    def resume(self) -> None: ...
    def retires(self, s: Server) -> bool: ...
    def age_idle(self) -> None: ...
    def rejuvenate(self) -> None: ...
    def try_one(self) -> None: ...
    def hanging(self, limit: int) -> list[tuple[Server, str]]: ...
    def idle_clients(self, limit: int) -> list[Client]: ...
    def long_servers(self, query_limit: int, idle_limit: int, xact_limit: int) -> list[tuple[Server, str]]: ...
    def idle_pins(self, limit: int) -> list[tuple[Server, int]]: ...
    def servers(self) -> list[Server]: ...
    def clients(self) -> list[Client]: ...
    def counted(self) -> tuple[int, ...]: ...
    def histograms(self) -> tuple[tuple[array[int], int], ...]: ...

@disjoint_base
class Wait:
    done: bool
    _asyncio_future_blocking: bool
    def __init__(self, loop: AbstractEventLoop) -> None: ...
    def __await__(self) -> Generator[Wait]: ...
    def __iter__(self) -> Generator[Wait]: ...
    def __next__(self) -> Wait: ...
    def get_loop(self) -> AbstractEventLoop: ...
    def add_done_callback(self, go_on: Callable[[Wait], object], *, context: Context) -> None: ...
    def end(self) -> None: ...
    def cancel(self, msg: object = None) -> bool: ...
    def result(self) -> None: ...

@disjoint_base
class Relay(BaseSelector):
    now: int
    events: list[Event]
    suspended: bool
    max_packet: int
    wordy: bool
    max_statement_bytes: int
    patience: int
    tls_direct: bool
    """Whether OpenSSL is called without Python in between, where that can be done; True at first."""
    tracked_names: tuple[bytes, ...]
    param_set_count: int
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
    def settled(self, wanted: tuple[bytes | None, ...], told: tuple[bytes | None, ...]) -> tuple[bytes | None, ...]: ...
    def doubted(self, there: tuple[bytes | None, ...], told: tuple[bytes | None, ...]) -> tuple[bytes | None, ...]: ...
    def drop(self, connection: Conn, reason: str, tell: bool = True, sqlstate: str | None = None) -> None: ...
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
        session: tuple[bytes, ...] = ...,
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

_Row = TypeVar("_Row")

@disjoint_base
class Statement:
    id: int
    text: bytes
    server_name: bytes

@disjoint_base
class Held: ...

def last_use(held: Held) -> int: ...
def size_of(held: Held) -> int: ...
def owed(servers: list[Server]) -> int: ...
def plain(value: _Row) -> _Row: ...

@disjoint_base
class Instant:
    wall: float
    stamp: int
    def __init__(self, wall: float, stamp: int) -> None: ...
    def wall_of(self, stamp: int) -> float: ...

def socket_rows(
    relay: Relay,
    connections: list[Any],
    row: type[_Row],
    names: tuple[str, ...],
    pointer: Callable[[int], str],
    at: Instant,
    user: str | None = None,
    database: str | None = None,
) -> list[_Row]: ...
def record(connection: Conn, table: StatementTable) -> State: ...
def statement(
    relay: Relay, number: int, body: bytes, key: object, told: bytes | None = None, fixed: bytes | None = None
) -> Statement: ...
def number_statements_from(relay: Relay, number: int) -> None: ...
def last_statement(relay: Relay) -> int: ...
def revive_client(
    pool: Pool, fd: int, state: State, params: Iterable[bytes | None], about: object, table: dict[int, Statement]
) -> Client: ...
def revive_server(
    pool: Pool, fd: int, state: State, params: Iterable[bytes | None], about: object, table: dict[int, Statement]
) -> Server: ...
def link_again(client: Client, server: Server) -> None: ...
def abandon(connection: Conn) -> None: ...
