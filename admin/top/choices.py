"""The columns that a person wants to see, kept for the next time in the state directory.

The rule: a file that cannot be read or written costs the choice, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from admin.top.view import CHOICES, Screen
from pooler import places

Hidden = dict[Screen, frozenset[str]]


def place(environment: Mapping[str, str] = os.environ) -> Path:
    """Raises NoPlace."""
    return places.state_directory(environment) / "top_columns.json"


def load(hidden: Hidden, find: Callable[[], Path] = place) -> Hidden:
    """What was kept; `hidden` where nothing was."""
    try:
        kept = json.loads(find().read_text(encoding="utf-8"))
        return {
            screen: frozenset(kept[screen.value]).intersection(CHOICES[screen][1:]) if screen.value in kept else names
            for screen, names in hidden.items()
        }
    except (OSError, ValueError, TypeError, places.NoPlace):
        return hidden


def keep(hidden: Hidden, find: Callable[[], Path] = place) -> None:
    with suppress(OSError, places.NoPlace):
        path = find()
        places.make(path.parent)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps({screen.value: sorted(names) for screen, names in hidden.items()}), encoding="utf-8")
        part.replace(path)
