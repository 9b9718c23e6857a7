"""The API over a state: Heroku's answers, errors, paging and tokens; nothing of another app's; secrets in no error."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from admin.platform.api import build
from admin.platform.api.ranges import page
from admin.platform.errors import PlatformError
from tests.fixtures.platform import NOWHERE, Api, World


@dataclass(frozen=True)
class Line:
    text: str
    addon: str = ""
    source: str = "app"
    process: str = "heroku-pgbouncer"


class Lines:
    """Log lines as the metrics' reporter keeps them."""

    def __init__(self, *lines: Line) -> None:
        self.lines = lines

    def tail(self, count: int) -> Sequence[Line]:
        return self.lines[-count:]

    @contextmanager
    def follow(self) -> Iterator[AsyncIterator[Line]]:
        async def coming() -> AsyncIterator[Line]:
            yield Line("later")

        yield coming()


LINES = Lines(
    Line("of ours", "postgresql-octagonal-12345"),
    Line("of theirs", "postgresql-foreign-1"),
    Line("of the pooler"),
    Line("of postgres", "postgresql-octagonal-12345", process="heroku-postgres"),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state.db")
    made.app("example-app")
    made.app("other-app")
    made.database("example-app", "postgresql-octagonal-12345")
    made.database("other-app", "postgresql-foreign-1", "postgres://v:other-sesame@127.0.0.1:2/data2")
    yield made
    made.state.close()


@pytest.fixture
def application(world: World) -> Any:
    return build(world.state, LINES, version="1.2.3")


@pytest.fixture
def api(world: World, application: Any) -> Api:
    return Api(application, world.token())


ATTACH = {"addon": {"name": "postgresql-octagonal-12345"}, "app": {"name": "example-app"}}


def test_attaching_as_herokus_command_line_does(api: Api) -> None:
    made = api("POST", "/addon-attachments", ATTACH | {"name": "POOL", "namespace": "connection-pooling:default"})
    assert made.status == 201
    assert made.json["config_vars"] == ["POOL_URL"]
    assert made.json["addon"]["plan"]["name"] == "heroku-postgresql:standard-0"
    assert api("GET", "/apps/example-app/config-vars").json["POOL_URL"] == "postgres://user:sesame@127.0.0.1:2/data"
    found = api("GET", "/apps/example-app/addon-attachments/POOL")
    assert found.json["id"] == made.json["id"]
    gone = api("DELETE", f"/addon-attachments/{made.json['id']}")
    assert gone.status == 200
    again = api("DELETE", f"/addon-attachments/{made.json['id']}")
    assert (again.status, again.json["id"]) == (404, "not_found")


@pytest.mark.slow
@pytest.mark.parametrize(
    "identity", ["DATABASE", "DATABASE_URL", "postgresql-octagonal-12345", "example-app::DATABASE"]
)
def test_resolving_what_users_type(api: Api, identity: str) -> None:
    asked = {"addon_attachment": identity, "app": "example-app"}
    found = api("POST", "/actions/addon-attachments/resolve", asked)
    assert [item["name"] for item in found.json] == ["DATABASE"]
    found = api("POST", "/actions/addons/resolve", {"addon": identity, "app": "example-app"})
    assert [item["name"] for item in found.json] == ["postgresql-octagonal-12345"]


def test_what_apps_info_and_ps_ask_for(api: Api) -> None:
    app = api("GET", "/apps/example-app").json
    assert (app["repo_size"], app["slug_size"], app["acm"]) == (0, 0, False)
    assert app["stack"] == app["build_stack"]
    assert api("GET", "/apps/example-app/dynos").json == []
    assert api("GET", "/apps/no-app/dynos").status == 404


def test_the_settings_of_a_server_that_is_away(api: Api) -> None:
    found = api("GET", "/postgres/v0/databases/postgresql-octagonal-12345/config")
    assert (found.status, found.json["id"]) == (503, "service_unavailable")


def test_sharing_by_another_apps_attachment(api: Api) -> None:
    found = api("GET", "/addons/example-app%3A%3ADATABASE")
    assert found.json["name"] == "postgresql-octagonal-12345"


def test_what_does_not_resolve(api: Api) -> None:
    found = api("POST", "/actions/addon-attachments/resolve", {"addon_attachment": "NOPE", "app": "example-app"})
    assert found.status == 404
    assert found.json == {
        "id": "not_found",
        "message": "Couldn't find that add on attachment.",
        "resource": "add_on attachment",
    }


def test_a_database_that_is_down(api: Api) -> None:
    """An answer, not an error; only the pool that would need it is refused, and nothing is half done."""
    found = api("GET", "/client/v11/databases/postgresql-octagonal-12345").json
    rows = {row["name"]: row["values"] for row in found["info"]}
    assert rows["Status"] == ["Unavailable"]
    assert "Tables" not in rows
    assert found["resource_url"] == NOWHERE
    waiting = api("GET", "/client/v11/databases/postgresql-octagonal-12345/wait_status").json
    assert waiting["waiting?"] is True
    before = api("GET", "/apps/example-app/releases").json
    refused = api("POST", "/client/v11/databases/postgresql-octagonal-12345/connection-pooling", {"app": "example-app"})
    assert (refused.status, refused.json["id"]) == (503, "service_unavailable")
    assert "127.0.0.1:1" in refused.json["message"]
    assert "sesame" not in refused.json["message"]
    assert api("GET", "/apps/example-app/releases").json == before


def test_config_vars(api: Api) -> None:
    found = api("PATCH", "/apps/example-app/config-vars", {"A": "1", "B": "a b\n\u2b22"})
    assert found.json["B"] == "a b\n\u2b22"
    found = api("PATCH", "/apps/example-app/config-vars", {"ZED": "1", "AARDVARK": "2"})
    assert list(found.json) == sorted(found.json), "attached and set ones together, by name"
    found = api("PATCH", "/apps/example-app/config-vars", {"A": None, "ZED": None, "AARDVARK": None})
    assert "A" not in found.json
    (release,) = api("GET", "/apps/example-app/releases", headers={"range": "version ..; max=1, order=desc"}).json
    assert (release["version"], release["current"]) == (5, True)
    assert release["description"] == "Remove A, ZED, AARDVARK config vars"


def test_releases_are_paged(api: Api) -> None:
    for number in range(5):
        api("PATCH", "/apps/example-app/config-vars", {"A": str(number)})
    wanted: str | None = "version ..; max=3, order=desc"
    versions: list[int] = []
    while wanted:
        found = api("GET", "/apps/example-app/releases", headers={"range": wanted})
        versions += [release["version"] for release in found.json]
        wanted = found.headers.get("next-range")
        assert found.status == (206 if wanted else 200)
    assert versions == [7, 6, 5, 4, 3, 2, 1]
    assert found.headers["content-range"] == "version 1..1"
    assert found.headers["accept-ranges"] == "version, id"


@pytest.mark.parametrize(
    "header", ["nonsense", "name ..", "version ..; max=0", "version ..; order=up", "version x..", "v" * 999]
)
def test_ranges_that_cannot_be(api: Api, header: str) -> None:
    found = api("GET", "/apps/example-app/releases", headers={"range": header})
    assert (found.status, found.json["id"]) == (416, "requested_range_not_satisfiable")


@pytest.mark.parametrize(
    ("header", "expected", "following"),
    [
        (None, [1, 2, 3, 4, 5], None),
        ("n 2..4", [2, 3, 4], None),
        ("n ]2..4[", [3], None),
        ("n 4..2; order=desc", [4, 3, 2], None),
        ("n ..; max=2", [1, 2], "n ]2..; max=2"),
        ("n ]2..; max=2", [3, 4], "n ]4..; max=2"),
        ("n ..3; max=2,order=desc", [5, 4], "n ]4..3; max=2, order=desc"),
    ],
)
def test_ranges(header: str | None, expected: list[int], following: str | None) -> None:
    found = page([3, 1, 2, 5, 4], header, {"n": lambda item: item})
    assert (list(found.items), found.headers.get("Next-Range")) == (expected, following)


def test_a_page_of_nothing() -> None:
    assert page([], "n ..; max=1", {"n": lambda item: item}).status == 200


@pytest.mark.parametrize(
    ("body", "status", "identity"),
    [
        (b"", 422, "invalid_params"),
        (b"not json", 400, "bad_request"),
        (b"[1]", 422, "invalid_params"),
        (b'{"addon": 1, "app": "example-app"}', 422, "invalid_params"),
        (b'{"addon": "postgresql-octagonal-12345", "app": "example-app", "name": "\\u0000"}', 422, "invalid_params"),
        (b'{"addon": "postgresql-octagonal-12345", "app": "example-app", "name": "\\ud800"}', 400, "bad_request"),
        (b'{"addon": "x", "app": NaN}', 400, "bad_request"),
        (b"[" * 100_000, 400, "bad_request"),
        (b'{"a": ' + b"9" * 5000 + b"}", 400, "bad_request"),
        (b"\xff\xfe", 400, "bad_request"),
        (b'"' + b"x" * (128 << 10) + b'"', 413, "request_too_large"),
    ],
)
def test_bad_bodies(api: Api, body: bytes, status: int, identity: str) -> None:
    found = api("POST", "/addon-attachments", body)
    assert (found.status, found.json["id"]) == (status, identity)


@pytest.mark.parametrize(
    ("method", "path", "status", "identity"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/apps/example-app", 405, "method_not_allowed"),
        ("GET", "/apps/no-app/config-vars", 404, "not_found"),
        ("GET", "/apps/%00/config-vars", 404, "not_found"),
        ("GET", "/client/v11/databases/none", 404, "not_found"),
        ("GET", "/apps/example-app/releases/99", 404, "not_found"),
        ("GET", "/streams/none", 404, "not_found"),
    ],
)
def test_errors_are_herokus(api: Api, method: str, path: str, status: int, identity: str) -> None:
    found = api(method, path)
    assert (found.status, found.json["id"]) == (status, identity)
    assert found.headers["content-type"] == "application/json"


def test_taken_and_bad_names(api: Api) -> None:
    found = api("POST", "/apps", {"name": "example-app"})
    assert (found.status, found.json["message"]) == (422, "Name example-app is already taken")
    assert api("POST", "/apps", {"name": "No"}).status == 422
    assert api("POST", "/apps").status == 201
    found = api("PATCH", "/apps/example-app/config-vars", {"BAD-NAME": "1"})
    assert (found.status, found.json["id"]) == (422, "invalid_params")
    found = api("POST", "/addon-attachments", ATTACH | {"name": "DATABASE", "namespace": "connection-pooling:default"})
    assert (found.status, found.json["id"], found.json["app"]) == (
        423,
        "confirmation_required",
        {"name": "example-app"},
    )


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic !", "Basic eA==", "Digest x", "Bearer \xff"])
def test_without_a_token_nothing(application: Any, header: str) -> None:
    found = Api(application, None)(
        "GET", "/apps/example-app/config-vars", headers={"authorization": header} if header else {}
    )
    assert (found.status, found.json["id"]) == (401, "unauthorized")
    assert "www-authenticate" in found.headers


def test_basic_authorization(world: World, application: Any) -> None:
    credentials = base64.b64encode(f":{world.token()}".encode()).decode()
    api = Api(application, None)
    found = api(
        "GET",
        "/postgres/v0/databases/postgresql-octagonal-12345/credentials",
        headers={"authorization": f"Basic {credentials}"},
    )
    assert [item["name"] for item in found.json] == ["default"]
    assert b"sesame" not in found.body


def test_tokens_are_kept_hashed(world: World) -> None:
    token = world.token()
    world.state.close()
    assert all(token.encode() not in path.read_bytes() for path in world.place.parent.iterdir())


FOREIGN: tuple[tuple[str, str, dict[str, str] | None], ...] = (
    ("GET", "/apps/other-app", None),
    ("GET", "/apps/other-app/config-vars", None),
    ("PATCH", "/apps/other-app/config-vars", {"A": "1"}),
    ("GET", "/apps/other-app/releases", None),
    ("GET", "/apps/other-app/addons", None),
    ("GET", "/apps/other-app/addon-attachments", None),
    ("GET", "/apps/other-app/addon-attachments/DATABASE", None),
    ("POST", "/apps/other-app/log-sessions", {}),
    ("DELETE", "/apps/other-app/addons/postgresql-foreign-1", None),
    ("GET", "/addons/postgresql-foreign-1", None),
    ("GET", "/addons/other-app%3A%3ADATABASE", None),
    ("GET", "/addons/postgresql-foreign-1/addon-attachments", None),
    ("GET", "/addons/postgresql-foreign-1/config/credential:default", None),
    ("POST", "/actions/addons/resolve", {"addon": "postgresql-foreign-1"}),
    ("POST", "/actions/addons/resolve", {"addon": "other-app::DATABASE"}),
    ("POST", "/actions/addon-attachments/resolve", {"addon_attachment": "postgresql-foreign-1"}),
    ("POST", "/actions/addon-attachments/resolve", {"addon_attachment": "DATABASE", "app": "other-app"}),
    ("POST", "/addon-attachments", {"addon": "postgresql-foreign-1", "app": "example-app"}),
    ("POST", "/addon-attachments", {"addon": "postgresql-octagonal-12345", "app": "other-app"}),
    ("GET", "/client/v11/databases/postgresql-foreign-1", None),
    ("GET", "/client/v11/databases/postgresql-foreign-1/wait_status", None),
    ("PUT", "/client/v11/databases/postgresql-foreign-1/unfollow", None),
    ("POST", "/client/v11/databases/postgresql-foreign-1/connection-pooling", {"app": "example-app"}),
    ("GET", "/postgres/v0/databases/postgresql-foreign-1/credentials", None),
    ("GET", "/postgres/v0/databases/postgresql-foreign-1/credentials/default", None),
    ("POST", "/postgres/v0/databases/postgresql-foreign-1/credentials", {"name": "x"}),
    ("DELETE", "/postgres/v0/databases/postgresql-foreign-1/credentials/x", None),
)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "body"), FOREIGN)
def test_a_token_of_one_app_reaches_nothing_of_another(
    world: World, application: Any, method: str, path: str, body: Any
) -> None:
    found = Api(application, world.token("example-app"))(method, path, body)
    assert found.status in (403, 404), found.body
    assert b"other-sesame" not in found.body
    assert world.config("other-app") == {"DATABASE_URL": "postgres://v:other-sesame@127.0.0.1:2/data2"}
    assert list(world.config("example-app")) == ["DATABASE_URL"]


@pytest.mark.parametrize("path", ["/apps", "/addons", "/addon-attachments"])
def test_lists_end_where_the_token_does(world: World, application: Any, path: str) -> None:
    token = world.token("example-app")
    found = Api(application, token)("GET", path)
    assert len(found.json) == 1
    assert b"other" not in found.body
    assert b"foreign" not in found.body


def test_every_endpoint_is_in_the_foreign_list_or_names_no_app(api: Api) -> None:
    """A new endpoint must be thought of here."""
    described = api("GET", "/openapi.json").json["paths"]
    harmless = {
        "/account", "/apps", "/users/~/apps", "/addons", "/addon-attachments", "/apps/{app}/formation",
        "/apps/{app}/releases/{release}", "/addon-attachments/{attachment}",
    }  # fmt: skip
    fixed = {path.replace("other-app", "{app}", 1) if path.startswith("/apps/") else path for _, path, _ in FOREIGN}
    for path in set(described) - harmless:
        start = path.partition("{")[0]
        assert any(item.startswith(start) for item in fixed), path


def test_attachments_of_others_by_id(world: World, api: Api, application: Any) -> None:
    (foreign,) = api("GET", "/apps/other-app/addon-attachments").json
    outsider = Api(application, world.token("example-app"))
    for method in ("GET", "DELETE"):
        assert outsider(method, f"/addon-attachments/{foreign['id']}").status == 404


def streamed(api: Api, body: dict[str, Any]) -> list[str]:
    session = api("POST", "/apps/example-app/log-sessions", body)
    assert session.status == 201
    url = session.json["logplex_url"]
    assert url.startswith("http://api.test/streams/")
    found = Api(api.application, None)("GET", url.removeprefix("http://api.test"))
    assert found.headers["content-type"].startswith("text/event-stream")
    lines = found.body.decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def test_log_sessions_show_the_lines_of_the_apps_databases(api: Api) -> None:
    assert streamed(api, {}) == ["of ours", "of the pooler", "of postgres"]
    assert streamed(api, {"dyno": "heroku-pgbouncer"}) == ["of ours", "of the pooler"]
    assert streamed(api, {"lines": 1}) == ["of postgres"]
    assert streamed(api, {"source": "heroku"}) == []
    assert streamed(api, {"tail": True, "dyno": "heroku-pgbouncer"}) == ["of ours", "of the pooler", "later"]


def test_the_description_is_whole(api: Api) -> None:
    found = Api(api.application, None)("GET", "/openapi.json")
    assert found.status == 200
    assert found.json["info"]["version"] == "1.2.3"
    operations = [operation for path in found.json["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert "/client/v11/databases/{database}/connection-pooling" in found.json["paths"]


def test_what_goes_wrong_inside_is_500_and_not_told(
    world: World, application: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api(application, world.token())
    with monkeypatch.context() as patched:
        patched.setattr(world.state, "_engine", None)
        found = api("GET", "/apps")
    assert (found.status, found.json["id"]) == (500, "internal_server_error")
    assert api.token is not None
    assert api.token not in caplog.text
    assert found.headers["request-id"] in caplog.text


def test_a_state_that_fails_is_503(world: World, application: Any) -> None:
    api = Api(application, world.token())
    world.state.close()
    for path in world.place.parent.iterdir():
        path.write_bytes(b"broken" * 2000)
    found = api("GET", "/apps")
    assert (found.status, found.json["id"]) == (503, "service_unavailable")


def test_errors_have_their_whole_body() -> None:
    error = PlatformError("x", "message", 400, resource="thing", app="example-app")
    assert (
        json.dumps(error.body())
        == '{"id": "x", "message": "message", "resource": "thing", "app": {"name": "example-app"}}'
    )
