"""The API fuzzed from its own OpenAPI description: no 5xx but an honest 503, no answer the description does not
know, bad data refused, no way in without a token, and not one secret in an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from admin.platform.operations.drains import add_drain
from tests.fixtures.platform import ROOT, World

from .test_platform_heroku import served

pytestmark = pytest.mark.slow

EXAMPLES = 40
"""Per operation and kind of data."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("fuzz") / "state.db")
    made.app("example-app")
    made.database("example-app", "postgresql-octagonal-12345")
    with made.state.write() as store:
        add_drain(store, ROOT, "example-app", KNOWN["drain"])
    yield made
    made.state.close()


@pytest.fixture(scope="module")
def api(world: World) -> Iterator[str]:
    from admin.platform.api import build

    with served(build(world.state, version="1.0")) as url:
        yield url


@pytest.fixture(scope="module")
def schema(api: str, world: World) -> Any:
    import schemathesis

    found = schemathesis.openapi.from_url(f"{api}/openapi.json")
    found.config.generation.update(modes=list(schemathesis.GenerationMode))
    return found


def operations(schema: Any) -> list[Any]:
    return [result.ok() for result in schema.get_all_operations()]


KNOWN = {
    "app": "example-app",
    "addon": "postgresql-octagonal-12345",
    "database": "postgresql-octagonal-12345",
    "attachment": "DATABASE",
    "addon_attachment": "DATABASE",
    "credential": "default",
    "namespace": "credential:default",
    "release": "1",
    "drain": "https://logs.example/in",
}
"""What exists, so that not everything ends at "not found": put in place of what was drawn, in half of the good
requests."""


def aim(case: Any) -> None:
    for name in case.path_parameters:
        case.path_parameters[name] = KNOWN[name]
    if isinstance(case.body, dict):
        case.body.update({name: KNOWN[name] for name in set(case.body) & {"app", "addon", "addon_attachment"}})


def attempt(operation: Any, mode: Any, checks: list[Any], token: dict[str, str], seen: Counter[int]) -> None:
    """Requests of one kind to one operation, each answer held against the description."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    quiet = list(HealthCheck)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=quiet)
    @given(case=operation.as_strategy(generation_mode=mode), aimed=st.booleans())
    def try_it(case: Any, aimed: bool) -> None:
        if aimed and mode.is_positive:
            aim(case)
        response = case.call(headers=token)
        seen[response.status_code] += 1
        assert response.status_code < 500 or response.status_code == 503, (case.as_curl_command(), response.text)
        assert response.status_code < 400 or "sesame" not in response.text
        case.validate_response(response, checks=checks, headers=token)

    try_it()


def test_fuzz(schema: Any, world: World) -> None:
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

    always = [
        checks.content_type_conformance,
        checks.ignored_auth,
        checks.response_schema_conformance,
        checks.status_code_conformance,
        checks.unsupported_method,
    ]
    assert "sesame" in world.config("example-app")["DATABASE_URL"], "no secret that an error could tell"
    token = {"Authorization": f"Bearer {world.token()}"}
    seen: Counter[int] = Counter()
    for operation in operations(schema):
        attempt(operation, GenerationMode.POSITIVE, always, token, seen)
        attempt(operation, GenerationMode.NEGATIVE, [*always, checks.negative_data_rejection], token, seen)
    assert {200, 201, 400, 404, 416, 422} <= set(seen), seen
