"""Names: which are allowed, and where the invented ones come from.

Rules are Heroku's: an app is a DNS label, an attachment an upper-case word, a config var what a shell can
export. Invented names (`postgresql-octagonal-12345`, `HEROKU_POSTGRESQL_SILVER`) are drawn until one is free;
the caller says what is taken.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from admin.platform.errors import invalid

APP = re.compile(r"[a-z][a-z0-9-]{1,28}[a-z0-9]\Z")
ADDON = re.compile(r"[a-z][a-z0-9-]{1,60}[a-z0-9]\Z")
ATTACHMENT = re.compile(r"[A-Z][A-Z0-9_]{0,99}\Z")
CONFIG_VAR = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
CREDENTIAL = re.compile(r"[A-Za-z0-9_-]{1,50}\Z")
NAMED_POOL = re.compile(r"[a-z][a-z0-9_-]{0,29}\Z")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = _words("""
    AMBER AQUA BLACK BLUE BRONZE BROWN CHARCOAL COBALT COPPER CRIMSON CYAN GOLD GRAY GREEN IVORY
    JADE MAROON MAUVE NAVY OLIVE ONYX ORANGE PINK PUCE PURPLE RED ROSE SILVER TEAL VIOLET WHITE
    YELLOW
""")

SHAPES = _words("""
    acute amorphous angular animated asymmetrical clean closed colorful concave concentric contoured
    convex cubed curved cylindrical defined dimensional elliptical encrusted flat flexible fluffy
    fitted globular graceful horizontal infinite lively metric objective octagonal opaque parallel
    perpendicular polished pyramidal rectangular reticulated rigid round rugged shallow shaped
    sinuous slippery solid spherical symmetrical tapered tetrahedral transparent trapezoidal
    triangular vertical
""")

APP_WORDS = (
    _words("calm cold damp dry evening fathomless gentle limitless lit mighty morning quiet rocky still"),
    _words("basin brook cove falls harbor inlet lake meadow plains ridge river shore thicket waters"),
)

DATABASE = "DATABASE"
POOL = "DATABASE_CONNECTION_POOL"
"""The attachment name that follows the leader at pg:promote."""


def valid_app(name: str) -> str:
    if not APP.match(name):
        raise invalid(
            "Name must start with a letter, end with a letter or digit and can only contain lowercase "
            "letters, digits, and dashes."
        )
    return name


def valid_addon(name: str) -> str:
    if not ADDON.match(name):
        raise invalid(
            "Add-on name must start with a letter, end with a letter or digit and can only contain lowercase "
            "letters, digits, and dashes."
        )
    return name


def valid_attachment(name: str) -> str:
    if not ATTACHMENT.match(name):
        raise invalid("Name must start with a letter and can only contain uppercase letters, numbers, and underscores.")
    return name


def valid_config_var(name: str) -> str:
    if not CONFIG_VAR.match(name):
        raise invalid(
            "Config var names must start with a letter or underscore and can only contain letters, numbers, "
            f"and underscores; {name[:60]!r} is none."
        )
    return name


def valid_credential(name: str) -> str:
    if not CREDENTIAL.match(name):
        raise invalid(
            "Credential names can only contain letters, numbers, underscores, and dashes, at most 50 of them."
        )
    return name


def valid_pool(name: str) -> str:
    if not NAMED_POOL.match(name):
        raise invalid(
            "Pool names start with a lowercase letter and can only contain lowercase letters, digits, underscores and "
            "dashes, at most 30 of them."
        )
    return name


def attachment_name(identifier: str) -> str:
    """The attachment that a user means by `DATABASE_URL`: its name is the config var's less `_URL`."""
    return identifier.removesuffix("_URL")


def _draw(candidate: Callable[[], str], taken: Callable[[str], bool]) -> str:
    while taken(name := candidate()):
        pass
    return name


def new_app(taken: Callable[[str], bool]) -> str:
    def candidate() -> str:
        return "-".join((*(secrets.choice(words) for words in APP_WORDS), f"{secrets.randbelow(90000) + 10000}"))

    return _draw(candidate, taken)


def new_addon(taken: Callable[[str], bool]) -> str:
    def candidate() -> str:
        return f"postgresql-{secrets.choice(SHAPES)}-{secrets.randbelow(90000) + 10000}"

    return _draw(candidate, taken)


def new_attachment(taken: Callable[[str], bool], *, suffix: str = "") -> str:
    """HEROKU_POSTGRESQL_<COLOUR><suffix>; numbered when all colours are used."""
    for colour in COLOURS:
        if not taken(name := f"HEROKU_POSTGRESQL_{colour}{suffix}"):
            return name

    def numbered() -> str:
        return f"HEROKU_POSTGRESQL_{secrets.choice(COLOURS)}_{secrets.randbelow(9000) + 1000}{suffix}"

    return _draw(numbered, taken)
