"""Keeps a console connected: asks for passwords, notices a lost connection, reconnects and says so.

It decides what may be repeated: a command that only reads is sent again after a reconnection, a verb
never is, since it may have been carried out. Whether there is a person to ask for a password is the
caller's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from admin.repl.address import Address
from admin.repl.answers import Answer
from admin.repl.link import CannotConnect, CommandFailed, Link, Lost
from admin.repl.statements import SELECTS, first_word

PASSWORD_TRIES = 3
READING = SELECTS | {"SHOW"}
LONGEST_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Manners:
    """How to speak with whoever drives: `say` a line of news, `ask_password` (None: nobody can be asked),
    and for how many seconds a lost connection is tried again."""

    say: Callable[[str], None]
    ask_password: Callable[[Address], str | None] | None = None
    patience: float = 5.0


class Connector:
    """The session's connection, made anew when it is lost."""

    def __init__(self, addresses: Sequence[Address], manners: Manners, name: str = "pooler console") -> None:
        self._addresses = list(addresses)
        self._manners = manners
        self._name = name
        self._link: Link | None = None

    @property
    def address(self) -> Address:
        """Where we are connected, or would connect first; with the password that worked."""
        return self._link.address if self._link else self._addresses[0]

    @property
    def link(self) -> Link | None:
        return self._link

    def connect(self) -> Link:
        """A connection to the first address that takes us. A password is asked for at the last one only, and
        CannotConnect tells of that one."""
        problem = CannotConnect("no address to connect to")
        for address in self._addresses:
            try:
                self._link = self._login(address, last=address is self._addresses[-1])
            except CannotConnect as error:
                problem = error
                continue
            self._addresses = [self._link.address]
            return self._link
        raise problem

    def switch(self, addresses: Sequence[Address]) -> Link:
        """Connect elsewhere; the present connection stays when that fails."""
        other = Connector(addresses, self._manners, self._name)
        link = other.connect()
        self.close()
        self._link, self._addresses = link, other._addresses
        return link

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def ask(self, statement: str, on_wait: Callable[[float], None] | None = None) -> Answer:
        """Run a command, over a new connection if need be. Raises CommandFailed or CannotConnect."""
        link = self._link or self._reconnect()
        if link.closed:
            link = self._reconnect()
        try:
            return link.ask(statement, on_wait=on_wait)
        except Lost as lost:
            return self._after_loss(statement, str(lost), on_wait)

    def _after_loss(self, statement: str, reason: str, on_wait: Callable[[float], None] | None) -> Answer:
        word = first_word(statement)
        if word == "SHUTDOWN":  # the answer to an immediate SHUTDOWN is the end of the connection
            self.close()
            return Answer(tag="SHUTDOWN")
        self._manners.say(f"connection to {self.address.label} lost: {reason}")
        link = self._reconnect()
        if word not in READING:
            raise CommandFailed(f"{word} was not repeated: look whether it was carried out")
        try:
            return link.ask(statement, on_wait=on_wait)
        except Lost as lost:
            self.close()
            raise CannotConnect(f"connection lost again: {lost}") from None

    def _reconnect(self) -> Link:
        """Try for as long as patience lasts; a wrong password or another kind of server ends it at once."""
        began = time.monotonic()
        for pause in _pauses():
            try:
                link = self.connect()
            except CannotConnect as error:
                left = self._manners.patience - (time.monotonic() - began)
                if error.password or left <= 0:
                    raise
                time.sleep(min(pause, left))
                continue
            self._manners.say(f"connected to {link.address.label} again")
            return link
        raise AssertionError("pauses never end")

    def _login(self, address: Address, *, last: bool) -> Link:
        """Connect, asking for a password as long as the server wants another one."""
        ask = self._manners.ask_password if last else None
        for attempt in range(PASSWORD_TRIES + 1):
            try:
                return Link.open(address, self._name)
            except CannotConnect as error:
                if not error.password or ask is None or attempt == PASSWORD_TRIES:
                    raise
                if attempt or address.password is not None:
                    self._manners.say(str(error))
                password = ask(address)
                if password is None:
                    raise
            address = address.with_password(password)
        raise AssertionError("the last attempt returns or raises")


def _pauses() -> Iterator[float]:
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)
