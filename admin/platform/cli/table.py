"""The commands of the control plane as one table: name, usage, arguments, function, help.

Composition only: parsing makes a namespace of arguments, the function does the work with a Session. `pooler
help` and the dispatch of `pooler` read this table without loading any command's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, as argparse takes it."""

    names: tuple[str, ...]
    options: Options


def argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


APP = argument("-a", "--app", help="app to run command against")
DATABASE = argument("database", nargs="?", help="attachment, config var or add-on name, or app::NAME")
NEEDED_DATABASE = argument("database", help="attachment, config var or add-on name, or app::NAME")
CONFIRM = argument("--confirm", metavar="APP", help="confirm by repeating the app's name")
JSON = argument("--json", action="store_true", help="as JSON")


TOPICS = {
    "apps": "apps",
    "run": "apps",
    "db": "databases",
    "pg": "databases",
    "addons": "attachments",
    "config": "config vars and releases",
    "releases": "config vars and releases",
    "drains": "log drains",
    "authorizations": "API tokens",
}
"""What a command is about, by what its name begins with; in the order of the help."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command; `function` is `module:name` below this package, `rest` what stands behind `--`."""

    name: str
    function: str
    help: str
    arguments: tuple[Argument, ...] = ()
    rest: str = ""

    @property
    def topic(self) -> str:
        return self.name.partition(":")[0]


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("apps", "apps:apps", "list apps"),
        Command(
            "apps:create",
            "apps:create",
            "create an app",
            (argument("name", nargs="?", help="name of the app"),),
        ),
        Command("apps:destroy", "apps:destroy", "remove an app and forget its databases", (APP, CONFIRM)),
        Command(
            "db:register",
            "databases:register",
            "bring in a PostgreSQL database",
            (
                argument("url", metavar="URL", help="postgres:// URL, or - to read it from standard input"),
                argument("--plan", default="standard-0", help="plan whose rules apply (default: standard-0)"),
                argument("--name", help="name of the add-on"),
                argument(
                    "--as",
                    dest="attachment",
                    metavar="NAME",
                    help="name of the attachment (default: DATABASE)",
                ),
                argument(
                    "--connection-limit",
                    type=int,
                    metavar="N",
                    help="connections it allows (default: ask it)",
                ),
                argument("--follow", metavar="DATABASE", help="the database that this one follows"),
                argument("--pool-host", metavar="HOST", help="host of the pooled URL (default: the database's)"),
                argument("--pool-port", type=int, metavar="PORT", help="port of the pooled URL (default: the next)"),
                APP,
            ),
        ),
        Command("pg", "databases:info", "show database information", (DATABASE, APP)),
        Command("pg:info", "databases:info", "show database information", (DATABASE, APP)),
        Command(
            "pg:connection-pooling:attach",
            "databases:pool",
            "add an attachment to a database using connection pooling",
            (
                DATABASE,
                argument("--as", dest="attachment", metavar="NAME", help="name for add-on attachment"),
                argument("--credential", default="default", help="credential whose pool to attach"),
                argument("--pool", metavar="NAME", help="a pool of its own, beside the default one"),
                argument("--pool-mode", metavar="MODE", help="of that pool: transaction (default) or session"),
                argument(
                    "--pool-size",
                    type=int,
                    metavar="N",
                    help="its part of the database's server connections (default: a quarter)",
                ),
                APP,
            ),
        ),
        Command(
            "pg:promote",
            "databases:promote",
            "sets DATABASE as your DATABASE_URL",
            (
                NEEDED_DATABASE,
                argument("--as", dest="attachment", metavar="NAME", help="name for the database attachment"),
                argument("-f", "--force", action="store_true", help="even while the database is not available"),
                APP,
            ),
        ),
        Command(
            "pg:unfollow",
            "databases:stop_following",
            "stop a follower from following",
            (NEEDED_DATABASE, CONFIRM, APP),
        ),
        Command("pg:credentials", "credentials:credentials", "show information on credentials", (DATABASE, APP)),
        Command(
            "pg:credentials:create",
            "credentials:create",
            "create credential within database",
            (DATABASE, argument("-n", "--name", required=True, help="name of the new credential"), APP),
        ),
        Command(
            "pg:credentials:destroy",
            "credentials:destroy",
            "destroy credential within database",
            (DATABASE, argument("-n", "--name", required=True, help="name of the credential"), CONFIRM, APP),
        ),
        Command(
            "pg:credentials:url",
            "credentials:url",
            "show the URL of a credential",
            (DATABASE, argument("-n", "--name", default="default", help="name of the credential"), APP),
        ),
        Command(
            "pg:psql",
            "psql:psql",
            "open a psql shell to the database",
            (
                DATABASE,
                argument("-c", "--command", metavar="SQL", help="SQL command to run"),
                argument("-f", "--file", metavar="FILE", help="SQL file to run"),
                APP,
            ),
        ),
        Command(
            "pg:wait",
            "databases:wait",
            "blocks until database is available",
            (
                DATABASE,
                argument("--wait-interval", type=float, default=1.0, metavar="SECONDS", help="between two looks"),
                APP,
            ),
        ),
        Command("addons", "addons:addons", "list add-ons and attachments", (APP, JSON)),
        Command("addons:info", "addons:info", "show add-on and attachment information", (argument("addon"), APP)),
        Command(
            "addons:attach",
            "addons:attach_addon",
            "attach an existing add-on to an app",
            (
                argument("addon", help="add-on name, or app::ATTACHMENT"),
                argument("--as", dest="attachment", metavar="NAME", help="name for add-on attachment"),
                argument("--credential", help="credential to attach; it gets a pool of its own"),
                CONFIRM,
                APP,
            ),
        ),
        Command(
            "addons:detach",
            "addons:detach_attachment",
            "detach an add-on from an app",
            (argument("attachment"), APP),
        ),
        Command("addons:destroy", "addons:destroy", "forget a database", (argument("addon"), CONFIRM, APP)),
        Command(
            "config",
            "config:config",
            "display the config vars of an app",
            (APP, JSON, argument("-s", "--shell", action="store_true", help="in shell format")),
        ),
        Command(
            "config:get",
            "config:get",
            "display config var values",
            (argument("names", nargs="+", metavar="KEY"), APP),
        ),
        Command(
            "config:set",
            "config:change",
            "set config vars",
            (argument("pairs", nargs="*", metavar="KEY=VALUE"), APP),
        ),
        Command(
            "config:unset",
            "config:unset",
            "unset config vars",
            (argument("names", nargs="*", metavar="KEY"), APP),
        ),
        Command(
            "releases",
            "config:releases",
            "display the releases of an app",
            (APP, argument("-n", "--num", type=int, default=15, help="number of releases to show"), JSON),
        ),
        Command("drains", "drains:drains", "display the log drains of an app", (APP, JSON)),
        Command(
            "drains:add",
            "drains:add",
            "adds a log drain to an app",
            (argument("url", metavar="URL", help="https://, http://, syslog+tls:// or syslog://"), APP),
        ),
        Command(
            "drains:remove",
            "drains:remove",
            "removes a log drain from an app",
            (argument("url", metavar="URL|TOKEN", help="which one"), APP),
        ),
        Command("authorizations", "apps:authorizations", "list API tokens"),
        Command(
            "authorizations:create",
            "apps:authorize",
            "make an API token, for all apps or some",
            (
                argument("-d", "--description", default="Long-lived user authorization", help="what it is for"),
                argument("-a", "--app", action="append", dest="apps", help="an app that it reaches (repeatable)"),
                argument("-S", "--short", action="store_true", help="only output the token"),
            ),
        ),
        Command("authorizations:revoke", "apps:revoke", "revoke an API token", (argument("id"),)),
        Command(
            "run",
            "run:run",
            "run a command with an app's config vars, restarted by releases",
            (
                APP,
                argument("--pool", action="store_true", help="through a private pooler beside the command"),
                argument("--grace", type=float, default=30.0, metavar="SECONDS", help="from SIGTERM to SIGKILL"),
                argument(
                    "--no-restart",
                    action="store_true",
                    help="leave it running when a release changes its config",
                ),
            ),
            rest="COMMAND [ARGUMENT ...]",
        ),
    )
}
