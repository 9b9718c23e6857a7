"""The relay: asyncio's selector, and the data path between clients and servers, compiled.

`Relay` is handed to `asyncio.SelectorEventLoop` as its selector. Sockets of clients and servers in the query phase are
watched by the same epoll descriptor as asyncio's own; their bytes are forwarded inside `select`, in C, and Python hears
only of what is rare, through `Relay.events`. engine.pyx and the files it includes are one module, split by concern,
here in the order of reading: system (C declarations), ring and batch (what a turn sends, in one system call), conn (one
socket), openssl (its cipher), context (what Python's ssl leaves out of a TLS context), client, gauge and server (the
two directions of the protocol, and how long results are read), prepared (named statements), parameters (tracked
settings), state (what sessions hold), names (code that holds some), unnamed (statements without a name), stale (batches
that are run again), hub (who
listens to what), pool (queue, link, release), newcomer (sockets that still log in), wait (what a coroutine awaits of a
socket, and what carries it on), inlet (their packets), counted (how many there are, and how an ordinary one
goes), visit (an ordinary login), porch (listening sockets), selector (the loop), takeover (connections from and for
another process), rows (what the views show of connections).
"""

from pooler.relay.engine import (
    NARROW,
    Client,
    Conn,
    Counted,
    Counting,
    Crowd,
    Doorstep,
    Exits,
    Footing,
    Hub,
    Inlet,
    LightTask,
    Mould,
    Newcomer,
    Place,
    Pool,
    Porch,
    Relay,
    Server,
    Socket,
    Visit,
    Wait,
)

__all__ = [
    "NARROW", "Client", "Conn", "Counted", "Counting", "Crowd", "Doorstep", "Exits", "Footing", "Hub", "Inlet",
    "LightTask", "Mould", "Newcomer", "Place", "Pool", "Porch", "Relay", "Server", "Socket", "Visit", "Wait",
]  # fmt: skip
