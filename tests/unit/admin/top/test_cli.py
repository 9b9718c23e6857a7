"""What is no use of it."""

from __future__ import annotations

import pytest

from admin.top.cli import main


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [(["nonsense"], 2, "is no URL"), (["h:1"], 2, "needs a terminal"), (["h:1", "nonsense"], 2, "is no URL")],
)
def test_usage(arguments: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--delay", "0"], ["--nonsense"], ["-d", "x"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
