"""One child process and its end: asked with a signal first, killed after a grace time, and with it what it
left running.

A child gets a process group of its own, so that signals reach its children too; only when it shares our
terminal it stays in our group, because a terminal serves one group.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress


class Process:
    """A started child. `status` is its exit status once it has ended, 128 + signal when one killed it."""

    def __init__(self, child: asyncio.subprocess.Process, *, own_group: bool) -> None:
        self._child = child
        self._own_group = own_group
        self._buried = False

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], *, own_group: bool, stdout: int | None = None
    ) -> Process:
        """Start a command found on the PATH of its own environment. Raises OSError when it cannot be."""
        child = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdout=stdout, process_group=0 if own_group else None
        )
        return cls(child, own_group=own_group)

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> int:
        code = await self._child.wait()
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)

    async def stop(self, grace: float, number: int = signal.SIGTERM) -> int:
        """Ask it to end, kill it after `grace` seconds, and return its status; at once when it has ended
        already."""
        if self._child.returncode is None:
            self.send(number)
            try:
                async with asyncio.timeout(grace):
                    await self._child.wait()
            except TimeoutError:
                self.send(signal.SIGKILL)
        status = await self.wait()
        self.bury()
        return status

    def bury(self) -> None:
        """Kill what an ended child left behind in its group; once, since the group's id may be another's
        later."""
        if self._own_group and not self._buried:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        self._buried = True
