"""Of a system test with many cases the default suite takes the first one; the slow suite, which CI runs as well, all
others. Each starts a pooler of its own, so that a hundred of them are half a minute.

With POOLER_TESTS_WORKERS=2 the poolers of all of them are two workers. A test that can only hold for one process is
marked `one_process`, with the reason.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures.process import WORKERS

CASES = 1
HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        alone = item.get_closest_marker("one_process")
        if WORKERS and alone is not None:
            item.add_marker(pytest.mark.skip(reason=f"of one process: {alone.args[0]}"))
    seen: Counter[str] = Counter()
    for item in items:
        if not item.path.is_relative_to(HERE) or item.get_closest_marker("slow") is not None:
            continue
        name = item.nodeid.partition("[")[0]
        seen[name] += 1
        if seen[name] > CASES:
            item.add_marker(pytest.mark.slow)
