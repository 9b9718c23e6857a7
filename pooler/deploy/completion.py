"""Completion for bash, zsh and fish, made from the parsers of the commands.

Only words are offered that stand in a table: commands, flags, the values of those that have a choice. Where a file may
stand the shell completes files. A command's name may hold a colon, where bash begins a new word.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pooler.deploy.listed import Listed, arguments, help_of, value_of

_MARKS = re.compile(r"[][:]")
"""What ends a description of zsh's _arguments, unless it is escaped."""
FILES = re.compile(r"FILE|DIR|ini", re.IGNORECASE)


class Flag(NamedTuple):
    """What may be typed for one argument; `names` is empty for an operand."""

    names: tuple[str, ...]
    help: str
    value: str
    choices: tuple[str, ...]
    file: bool


def flags(parser: argparse.ArgumentParser) -> list[Flag]:
    found = []
    for action in arguments(parser):
        value, choices = value_of(action), tuple(map(str, action.choices or ()))
        file = bool(value and FILES.fullmatch(value)) or action.dest in ("ini", "http_key", "http_cert")
        found.append(Flag(tuple(action.option_strings), help_of(action, parser), value, choices, file))
    return found


BASH = """\
# Completion of pooler for bash: source it, or put it into /etc/bash_completion.d.
_pooler() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" current="" command previous words candidates="" files=""
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] || {{ current="${{words[-1]}}"; unset 'words[-1]'; }}
    command="${{words[1]:-}}" previous="${{words[-1]}}"
    case "$command" in
        "") candidates="{commands}" ;;
{cases}
    esac
    case "$command $previous" in
{values}
    esac
    COMPREPLY=()
    [[ -n $files && $current != -* ]] && mapfile -t COMPREPLY < <(compgen -f -- "$current")
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -W "$candidates" -- "$current")
    # Bash completes what is behind the last colon only.
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${{COMPREPLY[@]#"${{current%"${{current##*:}}"}}"}}")
    fi
}}
complete -o filenames -F _pooler pooler
"""


def bash(commands: Sequence[Listed]) -> str:
    cases, values = [], []
    for command in commands:
        known = flags(command.parser())
        words = " ".join(word for flag in known for word in flag.names or flag.choices)
        files = "; files=1" if any(flag.file and not flag.names for flag in known) else ""
        cases.append(f'        {command.name}) candidates="{words}"{files} ;;')
        for flag in known:
            if flag.names and flag.value:
                what = "files=1" if flag.file else "files="
                patterns = "|".join(f'"{command.name} {name}"' for name in flag.names)
                values.append(f'        {patterns}) candidates="{" ".join(flag.choices)}"; {what} ;;')
    names = " ".join(command.name for command in commands)
    return BASH.format(commands=names, cases="\n".join(cases), values="\n".join(values))


def zsh(commands: Sequence[Listed]) -> str:
    names = "\n".join(f"    {_single(_colons(command.name) + ':' + command.help)}" for command in commands)
    cases = "\n".join(f"    {command.name}) _arguments {' '.join(_specs(command))} ;;" for command in commands)
    return f"""\
#compdef pooler
# Completion of pooler for zsh: call it _pooler, in a directory of $fpath.
local -a commands=(
{names}
)
if (( CURRENT == 2 )); then
    _describe command commands
    return
fi
local command=$words[2]
shift words
(( CURRENT-- ))
case $command in
{cases}
esac
"""


def _specs(command: Listed) -> Iterator[str]:
    for flag in flags(command.parser()):
        action = "_files" if flag.file else f"({' '.join(flag.choices)})" if flag.choices else " "
        value = f":{_colons(flag.value)}:{action}" if flag.value else ""
        if not flag.names:
            yield _single(f"*{value}")
        for name in flag.names:
            others = f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
            yield _single(f"{others}{name}[{_MARKS.sub(_escaped, flag.help)}]{value}")


def fish(commands: Sequence[Listed]) -> str:
    lines = ["# Completion of pooler for fish: a file of ~/.config/fish/completions.", "complete -c pooler -f"]
    for command in commands:
        lines.append(f"complete -c pooler -n __fish_use_subcommand -a {command.name} -d {_fish(command.help)}")
    for command in commands:
        seen = f"complete -c pooler -n '__fish_seen_subcommand_from {command.name}'"
        for flag in flags(command.parser()):
            words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
            value = "" if not (flag.names and flag.value) else " -r" if flag.file else " -x"
            value += " -F" if flag.file else f" -a {_fish(' '.join(flag.choices))}" if flag.choices else ""
            if words or value:
                lines.append(" ".join([seen, *words, f"-d {_fish(flag.help)}"]) + value)
    return "\n".join(lines) + "\n"


def _escaped(mark: re.Match[str]) -> str:
    return "\\" + mark[0]


def _colons(text: str) -> str:
    return text.replace(":", "\\:")


def _single(text: str) -> str:
    """A word of a POSIX shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
