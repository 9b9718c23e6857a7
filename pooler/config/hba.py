"""HBA rules and user name maps: text -> rules, and which rule a client meets.

PgBouncer's part of pg_hba.conf: no DNS names, no samerole, samegroup or +group; no regular expressions in
maps. The rule: the first match decides, no match is a rejection. A line that cannot be read is logged and
left out, as PgBouncer does; the problem names its line.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import StrEnum

from pooler.config.ini import Problem, first_of, lines, load_text, reason
from pooler.config.kinds import BLANKS, AuthType
from pooler.values import dataclass

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Load = Callable[[str], str]


class RuleType(StrEnum):
    """Which connections a rule is for: Unix sockets, any TCP, TCP with TLS, TCP without."""

    local = "local"
    host = "host"
    hostssl = "hostssl"
    hostnossl = "hostnossl"


METHODS: Mapping[str, AuthType] = {
    **{
        method: AuthType(method)
        for method in ("trust", "reject", "md5", "peer", "cert", "scram-sha-256", "pam", "ldap")
    },
    "plain": AuthType.plain,
    "password": AuthType.plain,
}


@dataclass(frozen=True, slots=True)
class Names:
    """The databases or users a rule is for."""

    names: frozenset[str] = frozenset()
    all: bool = False
    sameuser: bool = False
    replication: bool = False


@dataclass(frozen=True, slots=True)
class AddressMask:
    """The addresses of a rule. As in PgBouncer one whose address has bits outside its mask meets no client,
    and a mask may have holes."""

    version: int
    address: int
    mask: int

    def __contains__(self, ip: IpAddress) -> bool:
        return ip.version == self.version and int(ip) & self.mask == self.address

    @property
    def is_sound(self) -> bool:
        return self.address & ~self.mask == 0


@dataclass(frozen=True, slots=True)
class HbaRule:
    """One line of an HBA file."""

    type: RuleType
    databases: Names
    users: Names
    network: AddressMask | None
    """None: any address (`local`, or the address `all`)."""
    method: AuthType
    map: str | None = None
    """Name of the user name map, for cert and peer."""
    options: str = field(default="", repr=False)
    """What follows the method ldap or pam."""
    line: int = 0

    def matches(
        self, database: str, user: str, address: IpAddress | None, tls: bool, replication: bool
    ) -> bool:
        return (
            self._meets(address, tls)
            and _has(self.databases, database, user, replication)
            and (self.users.all or user in self.users.names)
        )

    def _meets(self, address: IpAddress | None, tls: bool) -> bool:
        if address is None or self.type is RuleType.local:
            return address is None and self.type is RuleType.local
        if self.type is not RuleType.host and tls is not (self.type is RuleType.hostssl):
            return False
        return self.network is None or address in self.network


def _has(names: Names, database: str, user: str, replication: bool) -> bool:
    """Physical replication asks for no database: only the word `replication` is for it, as in PostgreSQL."""
    if replication:
        return names.replication
    return names.all or (names.sameuser and database == user) or database in names.names


@dataclass(frozen=True, slots=True)
class IdentLine:
    """`map system-user database-user` without the map; user None is `all`."""

    system_user: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Hba:
    """The rules of an auth_hba_file and the maps of an auth_ident_file."""

    rules: tuple[HbaRule, ...] = ()
    maps: Mapping[str, tuple[IdentLine, ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    readable: bool = True
    """False: the file could not be read, so a RELOAD keeps the rules it has."""

    def match(
        self, database: str, user: str, address: str | None, *, tls: bool, replication: bool = False
    ) -> HbaRule | None:
        """The rule for a client: `address` is its IP address, None on a Unix socket; `replication` is
        physical replication. None: rejected."""
        ip = None if address is None else client_address(address)
        for rule in self.rules:
            if rule.matches(database, user, ip, tls, replication):
                return rule
        return None

    def system_names(self, rule: HbaRule, user: str) -> tuple[str, ...]:
        """Who may log in as `user` by this rule: names that a certificate may have, or Unix users."""
        if rule.map is None:
            return (user,)
        return tuple(line.system_user for line in self.maps.get(rule.map, ()) if line.user in (None, user))


def client_address(text: str) -> IpAddress:
    """An address as a socket names it: no zone, and an IPv4 address that came over IPv6 is the IPv4 one."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


Maps = Mapping[str, tuple[IdentLine, ...]]


MORE = "broken lines: "


def load_hba(hba_file: str, ident_file: str | None = None, load: Load = load_text) -> Hba:
    """The rules of `hba_file`; a file that cannot be read gives a problem and no rule, so nobody gets in."""
    maps: Maps = {}
    problems: list[Problem] = []
    if ident_file:
        try:
            maps = parse_ident(load(ident_file), ident_file, problems)
        except (OSError, ValueError) as error:
            message = f"could not open ident config file {ident_file}: {reason(error)}"
            problems.append(Problem("", 0, message))
    try:
        text = load(hba_file)
    except (OSError, ValueError) as error:
        problems.append(Problem("", 0, f"could not open hba config file {hba_file}: {reason(error)}"))
        return Hba((), maps, tuple(problems), readable=False)
    hba = parse_hba(text, hba_file, maps, load)
    return dataclasses.replace(hba, problems=(*first_of(problems, what=MORE), *hba.problems))


def parse_hba(text: str, file: str = "", maps: Maps | None = None, load: Load = load_text) -> Hba:
    """The rules in the text of an HBA file that may use `maps`."""
    rules: list[HbaRule] = []
    problems: list[Problem] = []
    known, files, directory = maps or {}, NameFiles(load), os.path.dirname(file)

    def read(tokens: Tokens, number: int) -> None:
        rule = _rule(tokens, number, known, files, directory)
        rules.append(rule)
        if rule.network is not None and not rule.network.is_sound:
            message = f"address does not match mask in {file} line #{number}"
            problems.append(Problem(file, number, message, level="WARNING"))

    _read_lines(text, file, "hba", problems, read)
    return Hba(tuple(rules), known, first_of(problems, what=MORE))


def parse_ident(text: str, file: str, problems: list[Problem]) -> Maps:
    """The maps in the text of an ident file; what is wrong with a line is added to `problems`."""
    maps: dict[str, list[IdentLine]] = {}

    def read(tokens: Tokens, _: int) -> None:
        name, system_user = tokens.take("a map name"), tokens.take("a system user")
        is_all = tokens.take_word("all")
        user = None if is_all else tokens.take("a database user")
        tokens.expect_end()
        maps.setdefault(name, []).append(IdentLine(system_user, user))

    _read_lines(text, file, "ident", problems, read)
    return {name: tuple(lines) for name, lines in maps.items()}


def _read_lines(
    text: str, file: str, kind: str, problems: list[Problem], read: Callable[[Tokens, int], None]
) -> None:
    for number, line in enumerate(lines(text), 1):
        try:
            tokens = Tokens(line)
            if not tokens.at_end:
                read(tokens, number)
        except BadLine as error:
            problems.append(Problem(file, number, f"{kind} line {number}: {error}", level="WARNING"))
            message = f"could not parse {kind} config line {number}"
            problems.append(Problem(file, number, message, level="WARNING"))


class BadLine(Exception):
    """A line that cannot be read, and why."""


class Tokens:
    """The tokens of a line, taken from the left: words, "strings" ("" for a quote), commas; # begins a
    comment."""

    def __init__(self, line: str) -> None:
        self._line = line.strip(BLANKS)
        self._items, self._end = _tokens(self._line)
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next >= len(self._items)

    def peek(self) -> tuple[str, bool, int]:
        """The next token: its text, whether it was quoted, and where it starts."""
        return ("", False, len(self._line)) if self.at_end else self._items[self._next]

    def take(self, what: str) -> str:
        """The next word or string."""
        text, quoted, _ = self.peek()
        if self.at_end or (text == "," and not quoted):
            raise BadLine(f"did not find {what}")
        self._next += 1
        return text

    def take_word(self, word: str) -> bool:
        """Whether the next token is this unquoted word; then it is taken."""
        if self.at_end or self.peek()[:2] != (word, False):
            return False
        self._next += 1
        return True

    def rest(self) -> str:
        """All that is left of the line, without its comment."""
        start = self.peek()[2]
        self._next = len(self._items)
        return self._line[start : self._end].strip(BLANKS)

    def expect_end(self) -> None:
        if not self.at_end:
            raise BadLine("unsupported parameters")


def _tokens(line: str) -> tuple[list[tuple[str, bool, int]], int]:
    """The tokens, and where they end."""
    items: list[tuple[str, bool, int]] = []
    at = 0
    while at < len(line):
        c = line[at]
        start = at
        if c in BLANKS:
            at += 1
        elif c == "#":
            break
        elif c == ",":
            items.append((",", False, start))
            at += 1
        elif c == '"':
            text, at = _string(line, at)
            items.append((text, True, start))
        else:
            while at < len(line) and line[at] not in ',#"' and line[at] not in BLANKS:
                at += 1
            items.append((line[start:at], False, start))
    return items, at


def _string(line: str, at: int) -> tuple[str, int]:
    parts = []
    while True:
        close = line.find('"', at + 1)
        if close < 0:
            raise BadLine("a quote is missing")
        parts.append(line[at + 1 : close])
        at = close + 1
        if line[at : at + 1] != '"':
            return '"'.join(parts), at


def _rule(tokens: Tokens, number: int, maps: Maps, files: NameFiles, directory: str) -> HbaRule:
    kind = tokens.take("a record type")
    if kind not in RuleType.__members__:
        raise BadLine("unknown type")
    rule_type = RuleType(kind)
    databases = _names(tokens, True, files, directory)
    users = _names(tokens, False, files, directory)
    network = None if rule_type is RuleType.local else _network(tokens)
    word = tokens.take("a method")
    method = METHODS.get(word)
    if method is None:
        raise BadLine(f"unsupported method: buf={word}")
    if method in (AuthType.ldap, AuthType.pam):
        return HbaRule(rule_type, databases, users, network, method, options=tokens.rest(), line=number)
    mapped = _map(tokens, method, maps)
    tokens.expect_end()
    return HbaRule(rule_type, databases, users, network, method, mapped, line=number)


def _map(tokens: Tokens, method: AuthType, maps: Maps) -> str | None:
    word = tokens.peek()[0]
    if not word.startswith("map="):
        return None
    tokens.take("map=")
    name = word[4:] or tokens.take("the name of a map")
    if method not in (AuthType.cert, AuthType.peer):
        raise BadLine(f"map= cannot be used with {method}")
    if name not in maps:
        raise BadLine(f"ident map {name} is not defined")
    return name


def _names(tokens: Tokens, of_databases: bool, files: NameFiles, directory: str, depth: int = 0) -> Names:
    names: set[str] = set()
    flags = {"all": False, "sameuser": False, "replication": False}
    while True:
        quoted = tokens.peek()[1]
        text = tokens.take("a name")
        if quoted:
            names.add(text)
        elif text == "all" or (of_databases and text in flags):
            flags[text] = True
        elif of_databases and text in ("samerole", "samegroup"):
            raise BadLine(f"{text} is not supported")
        elif text.startswith("+"):
            raise BadLine("group names are not supported")
        elif text.startswith("@"):
            read = files.names(os.path.join(directory, text[1:]), of_databases, depth)
            names |= read.names
            flags = {flag: on or getattr(read, flag) for flag, on in flags.items()}
        else:
            names.add(text)
        if not tokens.take_word(","):
            return Names(frozenset(names), **flags)


MAX_NESTED = 10
"""How deep @files may name others."""


class NameFiles:
    """The files of names that rules mention, each read once. A file names others relative to its own
    directory."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._read: dict[tuple[str, bool], Names] = {}

    def names(self, path: str, of_databases: bool, depth: int) -> Names:
        """What the file at `path` lists, by lines or commas. Raises BadLine."""
        key = path, of_databases
        if key not in self._read:
            if depth >= MAX_NESTED:
                raise BadLine(f"files of names nest too deep at {path}")
            self._read[key] = self._parse(path, of_databases, depth)
        return self._read[key]

    def _parse(self, path: str, of_databases: bool, depth: int) -> Names:
        try:
            text = self._load(path)
        except (OSError, ValueError) as error:
            raise BadLine(f"could not open file of names {path}: {reason(error)}") from None
        parts = []
        for line in lines(text):
            tokens = Tokens(line)
            while not tokens.at_end:
                parts.append(_names(tokens, of_databases, self, os.path.dirname(path), depth + 1))
        return Names(
            frozenset().union(*(part.names for part in parts)),
            any(part.all for part in parts),
            any(part.sameuser for part in parts),
            any(part.replication for part in parts),
        )


def _network(tokens: Tokens) -> AddressMask | None:
    if tokens.take_word("all"):
        return None
    text, quoted, _ = tokens.peek()
    if quoted or text in ("", ","):
        kind = 0 if quoted else 2 if text else 4
        raise BadLine(f"did not find address - {kind} - '{text}'")
    tokens.take("address")
    address, slash, bits = text.partition("/")
    ip = _address(address, f"failed to parse address - {address}")
    if not slash:
        word = tokens.take("mask")
        mask = _address(word, f"failed to parse mask: {word}")
        if mask.version != ip.version:
            raise BadLine(f"failed to parse mask: {word}")
        return AddressMask(ip.version, int(ip), int(mask))
    if not bits.isascii() or not bits.isdigit() or len(bits) > 3 or int(bits) > ip.max_prefixlen:
        raise BadLine("invalid mask")
    whole = (1 << ip.max_prefixlen) - 1
    return AddressMask(ip.version, int(ip), whole ^ (whole >> int(bits)))


def _address(text: str, complaint: str) -> IpAddress:
    if "%" in text:
        raise BadLine(complaint)
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise BadLine(complaint) from None
