"""Tests of the pooler: `unit` (bytes and socket pairs), `system` (real PostgreSQL, real processes), `bench`.

What is tested is the installed package. The working tree is no place to import `pooler` from: its relay is
not compiled there. So the tree goes to the end of sys.path: an installed package (README's test command,
CI) comes first and only `tests` is found here; a tree whose relay was built in place is used when nothing
is installed. `--import-mode=append` keeps pytest from undoing that.

Where PYTHONDONTWRITEBYTECODE is set, as containers like to, each of the hundreds of poolers would compile the
whole package anew, which is half the time of its start: children do not inherit it.
"""

import os
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TREE]
sys.path.append(str(TREE))

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
