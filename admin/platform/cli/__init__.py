"""The command line of the control plane: Heroku's words and output, working directly on the state.

`run_command` finds the command in the table, parses its arguments, runs it and turns what goes wrong into
Heroku's error lines and exit status: 2 for an error of the platform or of usage, 1 when the command itself
refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import argparse

    from admin.platform.cli.session import Session
    from admin.platform.cli.table import Command


def run_command(argv: list[str]) -> int:
    """Run `argv` (command name first) and return the exit status."""
    from admin.platform.cli.concealment import conceal_arguments
    from admin.platform.cli.session import Refused, Session, Usage
    from admin.platform.cli.table import COMMANDS
    from admin.platform.cli.terminal import Terminal
    from admin.platform.errors import PlatformError

    terminal = Terminal.standard()
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None:
        terminal.fail(f"{argv[0] if argv else ''} is not a pooler command.")
        return 2
    conceal_arguments(argv)
    session = Session(terminal)
    try:
        arguments = _parse(command, argv[1:])
        session.place = arguments.state
        status: int = _function(command)(session, arguments)
        return status
    except Usage as error:
        terminal.fail(str(error))
        return 2
    except Refused as error:
        terminal.fail(str(error))
        return 1
    except PlatformError as error:
        terminal.fail(error.message, id=error.id, app=error.app)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet_pipe()
    finally:
        session.close()


def _quiet_pipe() -> int:
    """Nobody reads our output any more; keep the interpreter from complaining about it at exit."""
    import os
    import sys

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _function(command: Command) -> Any:
    from importlib import import_module

    module, _, name = command.function.partition(":")
    return getattr(import_module(f"admin.platform.cli.{module}"), name)


def _parse(command: Command, argv: list[str]) -> argparse.Namespace:
    """The command's arguments; what stands after `--` is `rest`. Errors do not repeat values, which may be
    secrets."""
    import argparse

    from admin.platform.cli.session import Usage

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise Usage(f"{message}\n{self.format_usage().strip()}")

    parser = Parser(prog=f"pooler {command.name}", description=command.help, allow_abbrev=False)
    for item in command.arguments:
        parser.add_argument(*item.names, **item.options)
    parser.add_argument(
        "--state", metavar="URL", help="state file or postgres:// URL (default: POOLER_STATE, or the user's)"
    )
    before, rest = argv, []
    if "--" in argv:
        at = argv.index("--")
        before, rest = argv[:at], argv[at + 1 :]
    found, unknown = parser.parse_known_intermixed_args(before)
    if command.name == "run":
        rest = unknown + rest
    elif unknown or rest:
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        parser.error(f"unknown flag {flag}" if flag else "too many arguments")
    found.rest = rest
    return found


__all__ = ["Session", "run_command"]
