"""Keeps a console connected: asks for passwords, notices a lost connection, reconnects and says so.

It decides what may be repeated: a command that only reads is sent again after a reconnection, a verb
never is, since it may have been carried out. Whether there is a person to ask for a password is the
caller's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from admin.client.address import Address
from admin.client.answers import Answer
from admin.client.link import CannotConnect, CommandFailed, Link, Lost
from admin.client.vocabulary import SELECTS
from pooler.lexer import first_word

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

    several = False

    def __init__(self, addresses: Sequence[Address], manners: Manners, name: str = "pooler console") -> None:
        self._addresses = list(addresses)
        self.manners = manners
        self._name = name
        self._link: Link | None = None

    @property
    def address(self) -> Address:
        """Where we are connected, or would connect first; with the password that worked."""
        return self._link.address if self._link else self._addresses[0]

    @property
    def label(self) -> str:
        return self.address.label

    @property
    def place(self) -> str:
        return self.address.place

    @property
    def link(self) -> Link | None:
        return self._link

    def told(self) -> str:
        """Where we are, for a person."""
        if self._link is None or self._link.closed:
            return f"Not connected; {self.label} is next."
        return f'Connected to {self.label} as "{self.address.user}", version {self._link.version}.'

    def connect(self) -> Link:
        """A connection to the first address that takes us; each way to log in is tried once. If there is none, a
        password is asked for where one was refused, else at the last that wants one. CannotConnect tells of that
        address, or of the last."""
        problem = CannotConnect("no address to connect to")
        wanting: tuple[Address, CannotConnect] | None = None
        for address in _distinct(self._addresses):
            try:
                return self._taken(Link.open(address, self._name))
            except CannotConnect as error:
                problem = error
                if error.password and not (wanting and wanting[1].refused):
                    wanting = address, error
        if wanting is None:
            raise problem
        return self._taken(self._asked(*wanting))

    def _taken(self, link: Link) -> Link:
        self._link, self._addresses = link, [link.address]
        return link

    def switch(self, addresses: Sequence[Address]) -> Link:
        """Connect elsewhere; the present connection stays when that fails."""
        other = Connector(addresses, self.manners, self._name)
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
        self.manners.say(f"connection to {self.address.label} lost: {reason}")
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
        began, told = time.monotonic(), False
        for pause in _pauses():
            try:
                link = self.connect()
            except CannotConnect as error:
                left = self.manners.patience - (time.monotonic() - began)
                if error.password or left <= 0:
                    raise
                if not told:
                    told = True
                    self.manners.say(f"not connected to {self.address.label}: {error}; trying again for {left:.0f} s")
                time.sleep(min(pause, left))
                continue
            self.manners.say(f"connected to {link.address.label} again")
            return link
        raise AssertionError("pauses never end")

    def _asked(self, address: Address, problem: CannotConnect) -> Link:
        """Connect with the passwords that the person gives, as long as the server wants another one."""
        ask = self.manners.ask_password
        if ask is None:
            raise problem
        for _ in range(PASSWORD_TRIES):
            if problem.refused:
                why = str(problem).rpartition("FATAL:  ")[2]
                self.manners.say(f'the password for "{address.user}" was refused: {why}')
            password = ask(address)
            if password is None:
                break
            address = address.with_password(password)
            try:
                return Link.open(address, self._name)
            except CannotConnect as error:
                problem = error
                if not error.password:
                    break
        raise problem


def _distinct(addresses: Sequence[Address]) -> list[Address]:
    """Without those that would only log in the same way at the same place again."""
    return list({address.login: address for address in reversed(addresses)}.values())[::-1]


def _pauses() -> Iterator[float]:
    pause = 0.1
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)
