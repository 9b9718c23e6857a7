"""The command line of the control plane: Heroku's words and output, working directly on the state.

`run_command` finds the command in the table, parses its arguments, runs it and turns what goes wrong into
Heroku's error lines and exit status: 2 for an error of the platform or of usage, 1 when the command itself
refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from admin.platform.cli.session import Session
    from admin.platform.cli.table import Command


def run_command(argv: list[str]) -> int:
    """Run `argv` (command name first) and return the exit status."""
    from admin.platform.cli.concealment import conceal_arguments
    from admin.platform.cli.parsing import Usage, parse
    from admin.platform.cli.session import Refused, Session
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
        arguments = parse(command, argv[1:])
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


__all__ = ["Session", "run_command"]
