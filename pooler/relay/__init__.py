"""The relay: asyncio's selector, and the data path between clients and servers, compiled.

`Relay` is handed to `asyncio.SelectorEventLoop` as its selector. Sockets of clients and servers in the query phase
are watched by the same epoll descriptor as asyncio's own; their bytes are forwarded inside `select`, in C, and Python
hears only of what is rare, through `Relay.events`. engine.pyx and the files it includes are one module, split by
concern: system (C declarations), conn (one socket), client and server (the two directions of the protocol),
openssl (the cipher), prepared (named statements), parameters (tracked settings), pool (queue, link, release), selector (the loop),
rows (what the views show of connections).
"""

from pooler.relay.engine import Client, Conn, Newcomer, Pool, Relay, Server, Wait

__all__ = ["Client", "Conn", "Newcomer", "Pool", "Relay", "Server", "Wait"]
