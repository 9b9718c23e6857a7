"""Ports that databases have of their own (`DatabaseConfig.alias`): each has a door, which knows them by the names they
have there, and sockets in the service's one loop.

Where the pooler itself listens, its own door learns the names. The rule: a port that cannot be had is told, and asked
for again; those that can be had do not wait for it.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

from pooler.config.whole import Config
from pooler.log import LOG
from pooler.pools.running import Phase, Running
from pooler.process.accepting import Named, Way
from pooler.process.service import Service, ServiceError, listen_hosts


class Ports:
    """The ports that are open, beside those of the settings."""

    def __init__(self, running: Running, service: Service, new_door: Callable[[int], Way]) -> None:
        self._running = running
        self._service = service
        self._new_door = new_door
        self.missing: set[int] = set()
        """Ports that are asked for and could not be opened."""
        self._receptions: dict[int, Named] = {}
        self._sockets: dict[int, list[socket.socket]] = {}
        self._own = running.config.settings.listen_port
        running.on_phase.append(self._shutting_down)

    def _shutting_down(self, phase: Phase) -> None:
        """Nobody new comes in, at none of them."""
        self.close()

    def adopt(self, config: Config) -> None:
        """Open the ports that are asked for, close those that are not, and tell each what its names mean."""
        if self._running.shutting:
            return
        names: dict[int, dict[str, str]] = {}
        for database in config.databases.values():
            if database.alias is not None:
                names.setdefault(database.alias.port, {})[database.alias.name] = database.name
        for port in set(self._sockets) - set(names):
            self._close(port)
        self.missing = set(names) - set(self._receptions)
        for port in sorted(self.missing):
            try:
                self._open(port)
            except ServiceError as error:
                text = f"no pools of the state on port {port}: {error}"
                self._running.rounds.failed(f"port {port}", error, text)
            else:
                self.missing.discard(port)
        for port, reception in self._receptions.items():
            reception.aliases = names.get(port, {})

    def _open(self, port: int) -> None:
        """Raises ServiceError."""
        service, settings = self._service, self._running.config.settings
        if port == self._own and any(sock.family != socket.AF_UNIX for sock in service.listeners):
            self._receptions[port] = service.door.reception
            return
        door = self._new_door(port)
        settings = dataclasses.replace(settings, listen_port=port)
        sockets: list[socket.socket] = []
        try:
            for host in listen_hosts(settings.listen_addr or ("127.0.0.1",)):
                sockets += service.bind_tcp(host, settings)
        except ServiceError:
            for sock in sockets:
                sock.close()
            raise
        self._receptions[port], self._sockets[port] = door.reception, sockets
        for sock in sockets:
            service.acceptor.watch(sock, door)

    def _close(self, port: int) -> None:
        for sock in self._sockets.pop(port):
            self._service.acceptor.release(sock)
            sock.close()
        self._receptions.pop(port).aliases = {}
        self._running.say(LOG, f"no longer listening on port {port}")

    def close(self) -> None:
        for port in list(self._sockets):
            self._close(port)
