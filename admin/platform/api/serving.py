"""From HTTP to endpoints and back: authentication, the body's check, Heroku's error objects, Request-Id, the
streams of log sessions.

Every request but the description and a log stream needs a token. Nothing that a client sent is repeated in an
answer or in the log beyond method and path.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import groupby
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from admin.platform.api import addons, apps, databases, drains
from admin.platform.api.calls import Answer, Call, Endpoint
from admin.platform.api.description import openapi
from admin.platform.api.shapes import Schema, problem
from admin.platform.errors import PlatformError, bad_request, invalid, not_found, unauthorized
from admin.platform.logs import Sessions
from admin.platform.operations.access import Actor
from admin.platform.operations.apps import authenticate
from admin.platform.state import State

logger = logging.getLogger(__name__)

ENDPOINTS: tuple[Endpoint, ...] = (
    *apps.ENDPOINTS,
    *addons.ENDPOINTS,
    *databases.ENDPOINTS,
    *drains.ENDPOINTS,
)

LARGEST_BODY = 128 << 10
"""Bytes of a request's body: twice what all config vars of an app may be at Heroku's."""

KEEPALIVE = 15.0
"""Seconds of silence after which a log stream sends a comment, so that nobody in between gives it up."""

Handler = Callable[[Request], Awaitable[Response]]


def application(state: State, logs: Sessions, version: str) -> Starlette:
    ordered = sorted(ENDPOINTS, key=lambda endpoint: endpoint.path)
    routes = [
        Route(path, _dispatcher(state, logs, {endpoint.method: endpoint for endpoint in group}), methods=methods)
        for path, group, methods in _by_path(ordered)
    ]
    routes.append(Route("/openapi.json", _description(version), methods=["GET"]))
    routes.append(Route("/streams/{key}", _stream(logs), methods=["GET"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, ClientDisconnect: _gone})


def _by_path(ordered: list[Endpoint]) -> list[tuple[str, list[Endpoint], list[str]]]:
    found = []
    for path, group in groupby(ordered, key=lambda endpoint: endpoint.path):
        members = list(group)
        found.append((path, members, [endpoint.method for endpoint in members]))
    return found


def _dispatcher(state: State, logs: Sessions, endpoints: Mapping[str, Endpoint]) -> Handler:
    """The handler of one path: picks the endpoint by method, and turns whatever happens into an answer."""

    async def handle(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            endpoint = endpoints["GET" if request.method == "HEAD" else request.method]
            answer = await _perform(state, logs, endpoint, request)
        except PlatformError as error:
            answer = Answer(error.body(), error.status, _challenge(error))
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("%s %s failed (request %s)", request.method, request.url.path, request_id)
            answer = Answer({"id": "internal_server_error", "message": "Internal server error."}, 500)
        return JSONResponse(answer.value, answer.status, {"Request-Id": request_id, **answer.headers})

    return handle


async def _perform(state: State, logs: Sessions, endpoint: Endpoint, request: Request) -> Answer:
    actor = await run_in_threadpool(_actor, state, request.headers.get("authorization", ""))
    received = await _received(request) if endpoint.body is not None else b""

    def perform() -> Answer:
        call = Call(
            state=state,
            actor=actor,
            logs=logs,
            path=_path(request),
            body=_body(endpoint.body, received),
            query=dict(request.query_params),
            range=request.headers.get("range"),
            base_url=str(request.base_url),
        )
        return endpoint.function(call)

    return await run_in_threadpool(perform)


def _path(request: Request) -> Mapping[str, str]:
    """The path's parameters; one that no database could even be asked for names nothing."""
    parameters: dict[str, str] = dict(request.path_params)
    for value in parameters.values():
        if "\0" in value or not _encodable(value):
            raise PlatformError("not_found", "There is nothing of that name.", 404)
    return parameters


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _actor(state: State, header: str) -> Actor:
    """Who the Authorization header speaks for: `Bearer TOKEN`, or Basic with the token as password."""
    scheme, _, value = header.strip().partition(" ")
    secret = value.strip()
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise unauthorized() from None
    elif scheme.lower() != "bearer":
        raise unauthorized()
    with state.read() as store:
        actor = authenticate(store, secret) if secret else None
    if actor is None:
        raise unauthorized()
    return actor


def _challenge(error: PlatformError) -> Mapping[str, str]:
    return {"WWW-Authenticate": 'Bearer realm="pooler"'} if error.status == 401 else {}


async def _received(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > LARGEST_BODY:
            raise PlatformError("request_too_large", "The request's body is too large.", 413)
    return bytes(received)


def _body(schema: Schema | None, received: bytes) -> Any:
    """The JSON body, checked; None for endpoints without one."""
    if schema is None:
        return None
    try:
        value = json.loads(received.decode(), parse_constant=_refuse) if received else {}
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise bad_request("Unable to parse the request's body as JSON.") from None
    found = problem(schema, value)
    if found is not None:
        raise invalid(f"Invalid params: {found}.")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such path, method not allowed) in Heroku's form."""
    assert isinstance(error, HTTPException)
    words = {
        404: ("not_found", "The requested API endpoint was not found."),
        405: ("method_not_allowed", "Method not allowed."),
    }
    identity, message = words.get(error.status_code, ("bad_request", "The request cannot be served."))
    return JSONResponse({"id": identity, "message": message}, error.status_code, dict(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    """The client left before its body was here; nobody reads this."""
    return Response(status_code=499)


def _description(version: str) -> Handler:
    async def describe(request: Request) -> Response:
        return JSONResponse(openapi(ENDPOINTS, version))

    return describe


def _stream(logs: Sessions) -> Handler:
    """A log session's address: server-sent events, one line each."""

    async def stream(request: Request) -> Response:
        wanted = logs.find(request.path_params["key"])
        if wanted is None:
            error = not_found("log session")
            return JSONResponse(error.body(), error.status)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(logs.stream(wanted)), media_type="text/event-stream", headers=headers)

    return stream


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Lines as events, with a comment whenever nothing comes for a while."""
    yield ": the log of pooler\n\n"
    coming = asyncio.ensure_future(anext(lines, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=KEEPALIVE)
            if not done:
                yield ": still here\n\n"
                continue
            line = coming.result()
            if line is None:
                return
            yield f"data: {line}\n\n"
            coming = asyncio.ensure_future(anext(lines, None))
    finally:
        coming.cancel()
