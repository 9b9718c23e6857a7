"""What the kernel gives this process: how many descriptors it may have, and how it says that there is no more.

The rule: as many as the system lets; nobody asks `resource` but this module.
"""

from __future__ import annotations

import errno
import resource

UNLIMITED = resource.RLIM_INFINITY
NO_LIMIT = 1 << 30
"""What stands for as many as one likes."""
NO_MORE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors by which this process, or its machine, has no more of what is asked for: no other side has a part in it."""


def is_ours(error: BaseException) -> bool:
    """Whether it is one of these."""
    return isinstance(error, OSError) and error.errno in NO_MORE


def limits() -> tuple[int, int]:
    """How many descriptors this process may have now, and how many it may ask for."""
    soft, hard = (NO_LIMIT if limit == UNLIMITED else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    return soft, hard


def raise_limit() -> None:
    """Have as many descriptors as we may: what is not said in time to who comes too late costs more than they do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
