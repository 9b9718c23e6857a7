"""`pooler print NAME`: what comes with the pooler, for somebody's own files.

A row says what it is called, what it is, and where it comes from: a file of a package, or a table. The rule: what can
be made from a table is not written down again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

from pooler import __version__
from pooler.commands.table import listed


class Shipped(NamedTuple):
    name: str
    file: str
    """What it is to be called."""
    help: str
    text: Callable[[], str]


def _of(package: str, name: str) -> Callable[[], str]:
    return lambda: files(package).joinpath(name).read_text(encoding="utf-8")


def _sample() -> str:
    from pooler.deploy.sample import sample

    return sample()


def _commands_page() -> str:
    from pooler.deploy.manual import commands_page

    return commands_page(listed(), __version__)


def _settings_page() -> str:
    from pooler.deploy.manual import settings_page

    return settings_page(__version__)


def _completion(shell: str) -> Callable[[], str]:
    def text() -> str:
        from pooler.deploy import completion

        return {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}[shell](listed())

    return text


DEPLOY = "pooler.deploy"
SHIPPED = {
    row.name: row
    for row in (
        Shipped("ini", "pooler.ini", "every setting with its default and what it is", _sample),
        Shipped("systemd", "pooler.service", "a unit for systemd", _of(DEPLOY, "pooler.service")),
        Shipped("containerfile", "Containerfile", "a container's recipe", _of(DEPLOY, "Containerfile")),
        Shipped("compose", "compose.yml", "the pooler with PostgreSQL and Prometheus", _of(DEPLOY, "compose.yml")),
        Shipped("kubernetes", "kubernetes.yml", "a cluster's poolers, as one service", _of(DEPLOY, "kubernetes.yml")),
        Shipped("prometheus", "prometheus.yml", "what Prometheus is to ask", _of(DEPLOY, "prometheus.yml")),
        Shipped("alerts", "pooler.yml", "alert rules for Prometheus", _of("metrics.alerts", "pooler.yml")),
        Shipped("runbook", "runbook.md", "what to do about each alert", _of("metrics.alerts", "runbook.md")),
        Shipped("dashboard", "dashboard.json", "a dashboard for Grafana", _of("metrics.grafana", "dashboard.json")),
        Shipped("sizing", "sizing.md", "how large things should be, with measured figures", _of(DEPLOY, "sizing.md")),
        Shipped("man", "pooler.1", "the manual of the commands, for man(1)", _commands_page),
        Shipped("man-ini", "pooler.ini.5", "the manual of the settings, for man(1)", _settings_page),
        Shipped("bash", "pooler", "completion for bash", _completion("bash")),
        Shipped("zsh", "_pooler", "completion for zsh", _completion("zsh")),
        Shipped("fish", "pooler.fish", "completion for fish", _completion("fish")),
        Shipped("license", "LICENSE", "under which all of this may be used", _of("pooler", "LICENSE")),
    )
}


def parser() -> argparse.ArgumentParser:
    width = max(map(len, SHIPPED))
    listing = "\n".join(f"  {row.name:<{width}}  {row.help} ({row.file})" for row in SHIPPED.values())
    made = argparse.ArgumentParser(
        prog="pooler print",
        description="Write one of the things that come with the pooler to standard output:\n\n" + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", choices=list(SHIPPED), metavar="NAME", help="which of them")
    return made


def main(words: list[str]) -> int:
    row = SHIPPED[parser().parse_args(words).name]
    sys.stdout.write(row.text())
    return 0
