"""Who may read the HTTP front on loopback: those of this machine, not a page in their browser.

A page of some other site can have its own name resolved to 127.0.0.1 (DNS rebinding) and then reads what it likes,
since to the browser that is its own site. It cannot change the Host header, in which that name stands. So on loopback
a name other than this machine's own is refused. What asks for a token needs no such guard. Beyond loopback whoever
reaches the port may read it; what the console tells only to who has logged in there is not read that way, unless the
operator says so.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Handler = Callable[["Request"], Awaitable["Response"]]

FORBIDDEN, MISDIRECTED = 403, 421
INSIDE = "shown on loopback only; http_details = yes in [pooler] shows it to whoever reaches this port\n"
REFUSAL = "on loopback this is served to localhost only; a proxy before it must send Host: localhost\n"


def guarded(handler: Handler) -> Handler:
    """`handler`, or status 421."""

    @wraps(handler)
    async def checked(request: Request) -> Response:
        server = request.scope.get("server") or ("", None)
        if is_loopback(server[0]) and not is_own(request.headers.get("host", "")):
            from starlette.responses import PlainTextResponse

            return PlainTextResponse(REFUSAL, MISDIRECTED)
        return await handler(request)

    return checked


def inside(handler: Handler, everywhere: Callable[[], bool]) -> Handler:
    """`handler` on loopback, or where it is shown `everywhere`; else status 403."""

    @wraps(handler)
    async def checked(request: Request) -> Response:
        server = request.scope.get("server") or ("", None)
        if not is_loopback(server[0]) and not everywhere():
            from starlette.responses import PlainTextResponse

            return PlainTextResponse(INSIDE, FORBIDDEN)
        return await handler(request)

    return checked


def is_own(host: str) -> bool:
    """Whether a Host header names this machine: an address, localhost, or the machine's name."""
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    name = name.removesuffix(".")
    own = ("", "localhost", socket.gethostname().lower())
    return name in own or name.endswith(".localhost") or is_address(name)


def is_loopback(host: str) -> bool:
    return is_address(host) and ipaddress.ip_address(host).is_loopback


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
