"""The commands that start with a backslash: one table of name, argument, help and what it does.

They change or use this program only; what reaches the console goes through Session.execute. Names are
psql's where psql has them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from admin.client import address
from admin.client.address import BadAddress, default_addresses
from admin.client.answers import Answer, Column
from admin.client.link import CannotConnect
from admin.client.terminal import USAGE, Terminal
from admin.client.vocabulary import SELECTS, Vocabulary
from admin.fieldtypes import TEXT
from admin.repl import formats, statements, watch
from admin.repl.session import Quit, Session, Trouble, at_line
from admin.repl.statements import Backslash
from pooler.lexer import first_word

ON_OFF = ("on", "off")


@dataclass(frozen=True, slots=True)
class Command:
    """A backslash command. `values` are what its argument may be, for completion and its help."""

    name: str
    argument: str
    help: str
    run: Callable[[Session, Backslash], None]
    values: tuple[str, ...] = ()
    words: Callable[[Vocabulary], Mapping[str, str]] = lambda vocabulary: {}
    """The same of the console's own words, with what each of them means."""


def run(session: Session, item: Backslash) -> None:
    """Carry out a backslash command. Raises Trouble for an unknown one."""
    command = BY_NAME.get(item.name)
    if command is None:
        raise Trouble(f"invalid command \\{item.name}: try \\? for help", USAGE if not item.name else 1)
    command.run(session, item)


def _help(session: Session, item: Backslash) -> None:
    usages = [f"\\{command.name} {command.argument}" for command in COMMANDS]
    left = max(map(len, usages))
    lines = [f"  {usage:<{left}}  {c.help}" for usage, c in zip(usages, COMMANDS, strict=True)]
    session.out.write("\n".join(["Commands of this program:", *lines, "", KEYS]) + "\n")


def _quit(session: Session, item: Backslash) -> None:
    raise Quit


def _expanded(session: Session, item: Backslash) -> None:
    options = session.options
    toggled = "off" if options.expanded == "on" else "on"
    options.expanded = _choice(item, ("on", "off", "auto")) or toggled
    session.terminal.tell(f"Expanded display is {options.expanded}.")


def _format(session: Session, item: Backslash) -> None:
    session.options.format = _choice(item, formats.NAMES) or session.options.format
    session.terminal.tell(f"Output format is {session.options.format}.")


def _switch(option: str, label: str) -> Callable[[Session, Backslash], None]:
    """A command that turns an option on or off, or over when nothing is said."""

    def turn(session: Session, item: Backslash) -> None:
        said = _choice(item, ON_OFF)
        value = (said == "on") if said else not getattr(session.options, option)
        setattr(session.options, option, value)
        session.terminal.tell(f"{label} {'on' if value else 'off'}.")

    return turn


def _keys(session: Session, item: Backslash) -> None:
    said = _choice(item, ("vi", "emacs"))
    session.options.vi = (said == "vi") if said else not session.options.vi
    session.terminal.tell(f"Keys are {'vi' if session.options.vi else 'emacs'}'s.")


def _choice(item: Backslash, values: tuple[str, ...]) -> str:
    said = item.argument.lower()
    if said and said not in values:
        raise Trouble(f'\\{item.name}: "{item.argument}" is not one of {", ".join(values)}')
    return said


def _go(session: Session, item: Backslash) -> None:
    """`\\g [FILE]`: the statement, once, perhaps into a file."""
    statement = _statement(session, item)
    if not item.argument:
        return session.execute(statement)
    session.out.redirect(item.argument)
    try:
        session.execute(statement)
    finally:
        session.out.reset()
    return None


def _go_expanded(session: Session, item: Backslash) -> None:
    session.execute(_statement(session, item), session.with_format(vertical=True))


def _watch(session: Session, item: Backslash) -> None:
    try:
        wanted = watch.plan(item.argument)
    except watch.BadPlan as error:
        raise Trouble(str(error)) from None
    statement = _statement(session, item)
    if first_word(statement) not in SELECTS | {"SHOW"}:
        raise Trouble("\\watch repeats only what reads: SHOW and SELECT")
    session.last = statement
    watch.watch(session, statement, wanted)


def _statement(session: Session, item: Backslash) -> str:
    statement = item.statement or session.last
    if not statement:
        raise Trouble(f"\\{item.name}: there is no statement yet")
    return statement


def _output(session: Session, item: Backslash) -> None:
    session.out.redirect(item.argument)


def _connect(session: Session, item: Backslash) -> None:
    try:
        wanted = [address.parse(item.argument)] if item.argument else default_addresses()
        link = session.connector.switch(wanted)
    except BadAddress as error:
        raise Trouble(str(error)) from None
    except CannotConnect as error:
        raise Trouble(f"{error}\nPrevious connection kept.", 3) from None
    session.on_change("\\c")
    session.terminal.tell(f"Connected to {link.address.label}, version {link.version}.")


def _connection(session: Session, item: Backslash) -> None:
    session.out.write(f"{session.connector.told()}\n")


def _include(session: Session, item: Backslash) -> None:
    """A file's items, as a script: nobody is asked, the first failure ends it."""
    if not item.argument:
        raise Trouble("\\i: which file?")
    path = Path(os.path.expanduser(item.argument.strip("'")))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{path}: {error.strerror if isinstance(error, OSError) else 'is not UTF-8'}") from None
    asked, session.terminal = session.terminal, Terminal()
    try:
        for found in statements.split(text):
            with at_line(str(path), found):
                session.run(found)
    finally:
        session.terminal = asked


def _edit(session: Session, item: Backslash) -> None:
    """Edit the last statement; what ends with a semicolon runs, the rest waits at the prompt."""
    text = edited(item.statement or session.last)
    if text.rstrip().endswith(";"):
        for found in statements.split(text):
            session.run(found)
    else:
        session.prefill = text.strip()


def edited(text: str) -> str:
    """The text after a visit to VISUAL, EDITOR or vi."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".sql", prefix="pooler-", encoding="utf-8") as file:
        file.write(text + "\n" if text else "")
        file.flush()
        if subprocess.run(["/bin/sh", "-c", f'{editor} "$0"', file.name], check=False).returncode:
            raise Trouble(f"{editor} did not end well; nothing was run")
        return Path(file.name).read_text(encoding="utf-8")


def _describe(session: Session, item: Backslash) -> None:
    """`\\d [VIEW]`: the views, or the columns of one."""
    words = session.vocabulary()
    name = item.argument.strip('"').upper()
    if name and not words.has_view(name):
        raise Trouble(f'Did not find any view named "{item.argument}".')
    if name:
        answer = session.connector.ask(f"SHOW {name}")
        kinds = [(c.name, "number" if c.numeric else "text") for c in answer.columns]
        session.show(_listing(("column", "type"), kinds), session.look())
    else:
        session.show(_listing(("view", "what it shows"), list(_views(words).items())), session.look())


def _views(vocabulary: Vocabulary) -> dict[str, str]:
    return {view.name.lower(): view.help for view in vocabulary.views.values() if view.name != "HELP"}


SQL_HELP = "SQL over the views; it only reads, and may take many lines"


def _commands(vocabulary: Vocabulary) -> dict[str, str]:
    """Every command by its usage."""
    verbs = {f"{word.name} {word.takes.value}".rstrip(): word.help for word in vocabulary.commands.values()}
    return {**verbs, "SHOW": "one of the views: SHOW view [WHERE ...] [ORDER BY ...] [LIMIT ...]",
            "SELECT": SQL_HELP}  # fmt: skip


def _command_names(vocabulary: Vocabulary) -> dict[str, str]:
    return {usage.partition(" ")[0]: told for usage, told in _commands(vocabulary).items()}


def _command_help(session: Session, item: Backslash) -> None:
    """`\\h [COMMAND]`: the console's commands, or one; of SHOW also its views."""
    words = session.vocabulary()
    wanted = item.argument.upper().split()
    commands = _commands(words)
    found = [(usage, told) for usage, told in commands.items() if not wanted or usage.split()[0] == wanted[0]]
    if wanted[:1] == ["SHOW"]:
        views = [(f"SHOW {view.upper()}", told) for view, told in _views(words).items()]
        found = [pair for pair in views if len(wanted) == 1 or pair[0] == f"SHOW {wanted[1]}"]
    if not found:
        raise Trouble(f'No help for "{item.argument}": \\h alone lists the commands, \\d the views.')
    session.show(_listing(("command", "what it does"), found), session.look())


def _listing(names: tuple[str, ...], rows: list[tuple[str, str]]) -> Answer:
    return Answer(tuple(Column(name, TEXT) for name in names), rows)


def _echo(session: Session, item: Backslash) -> None:
    session.out.write(f"{item.argument}\n")


COMMANDS: tuple[Command, ...] = (
    Command("?", "", "this list", _help),
    Command("q", "", "leave (Ctrl-D too)", _quit),
    Command("d", "[VIEW]", "list the views, or the columns of one", _describe, words=_views),
    Command("h", "[COMMAND]", "what the console's commands do", _command_help, words=_command_names),
    Command("x", "[on|off|auto]", "one line per column; auto: when a table is too wide", _expanded,
            ("on", "off", "auto")),
    Command("f", "[FORMAT]", f"output format: {', '.join(formats.NAMES)}", _format, formats.NAMES),
    Command("human", "[on|off]", "durations, bytes and thousands readable",
            _switch("human", "Readable numbers"), ON_OFF),
    Command("watch", "[SEC] [delta] [c=N]", "repeat the statement; delta shows rates and changes", _watch,
            ("1", "2", "5", "10", "delta", "1 delta", "2 delta")),
    Command("g", "[FILE]", "run the statement again, perhaps into a file or |program", _go),
    Command("gx", "", "run the statement again, one line per column", _go_expanded),
    Command("o", "[FILE]", "answers go to a file or |program, without one to the terminal", _output),
    Command("i", "FILE", "run the commands of a file", _include),
    Command("e", "", "edit the last statement in $EDITOR", _edit),
    Command("c", "[URL]", "connect to another console", _connect),
    Command("conninfo", "", "tell where we are connected", _connection),
    Command("timing", "[on|off]", "show how long each command takes", _switch("timing", "Timing is"), ON_OFF),
    Command("pager", "[on|off]", "show long answers in $PAGER", _switch("pager", "Pager usage is"), ON_OFF),
    Command("keys", "[vi|emacs]", "editing keys (F4 too)", _keys, ("vi", "emacs")),
    Command("echo", "TEXT", "write a line where answers go", _echo),
)  # fmt: skip

BY_NAME = {command.name: command for command in COMMANDS}

KEYS = """Keys: Tab completes, Right or Ctrl-E takes the suggestion, Ctrl-R searches the history, Alt-Enter
starts a new line, F4 changes between emacs' and vi's keys, Ctrl-X Ctrl-E edits in $EDITOR, Ctrl-C drops the
line. Commands of the console need no semicolon; SELECT runs at its semicolon or at an empty line. \\h tells what
each of them does."""
