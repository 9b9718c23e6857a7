"""The columns that were chosen, kept for the next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from admin.top import choices
from admin.top.view import SELDOM, Screen, View


def test_what_was_chosen_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "state" / "top.json"
    hidden = {Screen.POOLS: frozenset({"mode", "user"}), Screen.POOL: frozenset[str]()}
    choices.keep(hidden, lambda: file)
    assert choices.load(View().hidden, lambda: file) == hidden
    assert choices.place({"XDG_STATE_HOME": "/x"}) == Path("/x/pooler/top_columns.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pools": 3}', "null", '{"pools": [["mode"]]}'])
def test_a_file_that_is_no_choice_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "top.json"
    file.write_text(text)
    assert choices.load(View().hidden, lambda: file) == View().hidden


def test_columns_that_are_no_more_and_the_first_one_cannot_be_hidden(tmp_path: Path) -> None:
    file = tmp_path / "top.json"
    file.write_text('{"pools": ["database", "gone", "mode"]}')
    assert choices.load(View().hidden, lambda: file) == {Screen.POOLS: frozenset({"mode"}), Screen.POOL: SELDOM}


def test_a_place_that_cannot_be_written_costs_the_choice_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    choices.keep(View().hidden, lambda: tmp_path / "file" / "top.json")
    assert choices.load(View().hidden, lambda: tmp_path / "file" / "top.json") == View().hidden
