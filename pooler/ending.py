"""The end of the process, for certain, whatever its loop and its threads are at.

An orderly end is the loop's: it says goodbye and flushes. But the loop may be held up (a full pipe, a disk, a successor
that stalls), and Python waits at its exit for threads, which PAM, LDAP or a name server may keep for ever. So who is
told to end at once has a moment for the orderly end; then a thread does what must not be left undone, and ends the
process. The rule: such duties never wait, and may be done twice.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

MOMENT = 0.6
"""Seconds for the orderly end of who is told to end at once."""
LAST_RESORT = 0.95
"""Seconds after which the process ends, with status 1, even if Python has stopped: by a thread of faulthandler's, which
needs nothing of it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class Ending:
    """The end of this process, and the duties that are left for it. `status` is the exit status should the orderly end
    come too late."""

    def __init__(self) -> None:
        self.status = 0
        self.near = False
        self._duties: list[Callable[[], None]] = []
        self._silence: IO[bytes] | None = None

    def also(self, duty: Callable[[], None]) -> None:
        """To be done in any case; the last one first."""
        self._duties.append(duty)

    def hurry(self) -> None:
        """The process is gone within a second from now on."""
        if self.near:
            return
        self.near = True
        try:
            threading.Thread(target=self._after_a_moment, name="ending", daemon=True).start()
            self._silence = open(os.devnull, "wb")  # noqa: SIM115
            faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=self._silence)
        except (RuntimeError, OSError):  # there may be no more threads, or descriptors
            self.now()

    def _after_a_moment(self) -> None:
        time.sleep(MOMENT)
        self.now()

    def now(self) -> None:
        for duty in reversed(self._duties):
            with suppress(Exception):
                duty()
        os._exit(self.status)

    def heed_signals(self) -> None:
        """Once the loop heeds none any more: nothing is left to be told."""

        def end(number: int, frame: FrameType | None) -> None:
            self.now()

        for number in SIGNALS:
            signal.signal(number, end)


def loop_without_ties() -> AbstractEventLoop:
    """An event loop whose end does not wait for threads: one that looks up a name may never come back."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    class Untied(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=True)

    loop = asyncio.new_event_loop()
    loop.set_default_executor(Untied(thread_name_prefix="asyncio"))
    return loop


def unread() -> None:
    """Whoever read our output (head, say) has left: so do we, without Python's complaint at the last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(status: int) -> int:
    """The exit status; but the process ends here when there is a thread that its exit would wait for."""
    own = threading.main_thread()
    if any(thread is not own and not thread.daemon for thread in threading.enumerate()):
        if (logging := sys.modules.get("logging")) is not None:
            logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status
