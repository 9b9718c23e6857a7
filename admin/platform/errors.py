"""Errors of the control plane, each with Heroku's id, message and HTTP status.

An operation that cannot be done raises one of these; the API renders it as JSON, the command line as Heroku's
`Error:` lines. The rule: a message names apps, add-ons, attachments, hosts and ports, and never a
password, a token or a whole URL.
"""

from __future__ import annotations


class PlatformError(Exception):
    """What went wrong, in the words of the Platform API. `resource` and `app` name what it is about."""

    def __init__(
        self, id: str, message: str, status: int, *, resource: str | None = None, app: str | None = None
    ) -> None:
        super().__init__(message)
        self.id = id
        self.message = message
        self.status = status
        self.resource = resource
        self.app = app

    def body(self) -> dict[str, object]:
        """The error as the API's JSON object."""
        body: dict[str, object] = {"id": self.id, "message": self.message}
        if self.resource is not None:
            body["resource"] = self.resource
        if self.app is not None:
            body["app"] = {"name": self.app}
        return body


NOUNS = {
    "app": "app",
    "add_on": "add-on",
    "add_on attachment": "add on attachment",
    "release": "release",
    "credential": "credential",
    "plan": "plan",
    "log session": "log session",
    "log drain": "log drain",
    "authorization": "authorization",
}
"""Heroku's `resource` of a not_found error, and the words its message uses for it."""


def not_found(resource: str) -> PlatformError:
    return PlatformError("not_found", f"Couldn't find that {NOUNS[resource]}.", 404, resource=resource)


def invalid(message: str) -> PlatformError:
    return PlatformError("invalid_params", message, 422)


def bad_request(message: str) -> PlatformError:
    return PlatformError("bad_request", message, 400)


def name_taken(name: str) -> PlatformError:
    return invalid(f"Name {name} is already taken")


def forbidden(message: str) -> PlatformError:
    return PlatformError("forbidden", message, 403)


def no_access(app: str) -> PlatformError:
    return forbidden(f"You do not have access to the app {app}.")


def unauthorized() -> PlatformError:
    return PlatformError("unauthorized", "Invalid credentials provided.", 401)


def confirmation_required(message: str, app: str) -> PlatformError:
    return PlatformError("confirmation_required", message, 423, app=app)


def unavailable(message: str) -> PlatformError:
    return PlatformError("service_unavailable", message, 503)
