"""The API's OpenAPI description, made from the same table of endpoints that serves it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from admin.platform.api.calls import Endpoint
from admin.platform.api.render import ERROR

ERRORS = {
    "400": "The request cannot be read",
    "401": "No valid token",
    "403": "Not within the token's reach, or not allowed",
    "404": "No such thing",
    "413": "The body is too large",
    "416": "The Range cannot be satisfied",
    "422": "The parameters do not make sense",
    "423": "A confirmation is required",
    "503": "The database or the state does not answer",
}
"""What any endpoint may answer instead, always in Heroku's JSON form."""


def openapi(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(shown(endpoint), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pooler platform API",
            "version": version,
            "description": "What of Heroku's Platform and Data APIs attaches pooled databases to apps.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The token as password."},
            },
        },
        "security": [{"bearer": []}, {"basic": []}],
    }


def shown(endpoint: Endpoint) -> str:
    """Its path as OpenAPI writes it."""
    return endpoint.path.replace(":path}", "}")


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    good = {"content": {"application/json": {"schema": endpoint.returns}}}
    answers: dict[str, Any] = {"200": {"description": "Done", **good}}
    if endpoint.status == 201:
        answers["201"] = {"description": "Made", **good}
    if endpoint.paged:
        answers["206"] = {"description": "A part of the list; Next-Range tells the next", **good}
    answers |= {status: {"description": text, **error} for status, text in ERRORS.items()}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method.lower()}{re.sub(r'[^a-z0-9]+', '_', shown(endpoint))}",
        "parameters": _parameters(endpoint),
        "responses": answers,
    }
    if endpoint.body is not None:
        required = bool(endpoint.body.get("required")) or "additionalProperties" in endpoint.body
        content = {"application/json": {"schema": endpoint.body}}
        operation["requestBody"] = {"required": required, "content": content}
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{([a-z]+)}", shown(endpoint))
    ]
    if endpoint.paged:
        found.append(
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "example": "id ..; max=10",
            }
        )
    return found
