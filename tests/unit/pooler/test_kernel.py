"""How many descriptors there are: as the kernel says, and as many as it lets."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from pooler import kernel
from tests.fixtures.process import imports


@pytest.mark.parametrize(
    ("told", "limits"),
    [((256, 4096), (256, 4096)), ((256, kernel.UNLIMITED), (256, kernel.NO_LIMIT)), ((-1, -1), (kernel.NO_LIMIT,) * 2)],
)
def test_no_limit_is_a_large_number(
    monkeypatch: pytest.MonkeyPatch, told: tuple[int, int], limits: tuple[int, int]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: told)
    assert kernel.limits() == limits


def test_the_limit_is_raised_to_what_may_be_had() -> None:
    code = """
import resource
from pooler import kernel
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
kernel.raise_limit()
print(*kernel.limits())
"""
    run = [sys.executable, "-P", "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True, env=imports()).stdout == "128 128\n"
