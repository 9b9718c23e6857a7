"""Threads for logins that somebody judges who blocks: PAM and LDAP.

They are apart from the loop's own, which look up names. The rule: a few are judged at once, and further ones wait.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")

BLOCKING_CHECKS = 8
"""How many are judged at once."""


async def in_thread(check: Callable[P, bool], *args: P.args, **kwargs: P.kwargs) -> bool:
    """The result of a check that blocks."""
    return await asyncio.wrap_future(_threads().submit(check, *args, **kwargs))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(BLOCKING_CHECKS, "authentication")
