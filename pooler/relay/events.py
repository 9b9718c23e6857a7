"""What the relay has to tell Python, in `Relay.events`, in order: one class for each event, its subject first.

Posted where no Python may run; dealt with once in a turn of the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pooler.touches import Touch

if TYPE_CHECKING:
    from pooler.relay.engine import Client, Hub, Newcomer, Pool, Server


class WantServer(NamedTuple):
    """Somebody waits, and no server is about to be free."""

    pool: Pool


class ClientLost(NamedTuple):
    """It is out of everything, and still to be closed; `sqlstate`: what it is told, None for the usual one."""

    client: Client
    reason: str
    tell: bool
    sqlstate: str | None


class ServerLost(NamedTuple):
    server: Server
    reason: str
    tell: bool


class ServerReady(NamedTuple):
    """It came free, and nobody of its pool may have it before Python has said so."""

    server: Server


class ServerSaid(NamedTuple):
    """It answered a query of ours with an error, or spoke out of turn."""

    server: Server
    text: str


class ServerSet(NamedTuple):
    """It is made to take on a client's parameters by this SQL."""

    server: Server
    sql: bytes


class ClientSet(NamedTuple):
    """The server has another spelling for a value that a client asked for: it is the client's from now on."""

    client: Client
    name: bytes
    wanted: bytes
    value: bytes


class ServerFact(NamedTuple):
    """A parameter that no client has set is another one now: it is true of the pool's other servers too."""

    server: Server
    name: bytes
    value: bytes


class ClientSaid(NamedTuple):
    """It asked for what cannot be."""

    client: Client
    text: str


class ClientTouched(NamedTuple):
    """It may leave something in its session, of a kind that it had not been told of for."""

    client: Client
    touch: Touch


class ServerPinned(NamedTuple):
    """It stays with its client for what is there (touches.Held), or may go: 0."""

    server: Server
    client: Client
    pins: int


class CodeMade(NamedTuple):
    """A transaction has ended that made functions, triggers or the like: nobody knows what may be called now."""

    pool: Pool


class TextsChanged(NamedTuple):
    """A transaction has ended by which texts may mean something else, also to other workers' clients."""

    pool: Pool


class ServerAnswered(NamedTuple):
    """What `Pool.ask` asked for: the rows, or why there are none."""

    server: Server
    question: bytes | None
    rows: list[tuple[bytes | None, ...]]
    error: str | None


class WantChannels(NamedTuple):
    """It listens for its client, to channels that a listening server is to have."""

    server: Server
    channels: tuple[bytes, ...]


class ChannelsLeft(NamedTuple):
    """Nobody listens any longer to some of its channels."""

    hub: Hub


class Fault(NamedTuple):
    """A bug of ours, or no memory, in the middle of its bytes."""

    connection: Client | Server | Newcomer
    error: Exception


Event = (
    WantServer
    | ClientLost
    | ServerLost
    | ServerReady
    | ServerSaid
    | ServerSet
    | ServerFact
    | ServerPinned
    | WantChannels
    | ChannelsLeft
    | ClientSaid
    | ClientSet
    | ClientTouched
    | CodeMade
    | TextsChanged
    | ServerAnswered
    | Fault
)
