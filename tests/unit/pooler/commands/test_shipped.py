"""`pooler print`: everything comes out, and whoever it is for takes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pooler.commands.shipped import SHIPPED, main, parser
from tests import TREE


@pytest.mark.parametrize("name", SHIPPED)
def test_everything_comes_out(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0
    assert len(capsys.readouterr().out) > 200


def test_what_there_is_is_listed() -> None:
    text = parser().format_help()
    assert all(f"  {row.name}" in text and f"({row.file})" in text for row in SHIPPED.values())


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as wrong:
        main(["dashbord"])
    assert wrong.value.code == 2
    assert "dashboard" in capsys.readouterr().err


def test_every_shipped_file_of_the_wing_is_printed() -> None:
    kept = {path.name for path in (TREE / "pooler" / "deploy").iterdir() if path.suffix not in (".py", "")}
    assert kept <= {row.file for row in SHIPPED.values()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = SHIPPED["systemd"].text()
    assert text.count("/usr/local/bin/pooler ") == 2
    unit = tmp_path / "pooler.service"
    unit.write_text(text.replace("/usr/local/bin/pooler ", "/bin/true "))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    for name in ("prometheus", "alerts"):
        (tmp_path / SHIPPED[name].file).write_text(SHIPPED[name].text())
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_fits_what_it_names() -> None:
    services = yaml.safe_load(SHIPPED["compose"].text())["services"]
    assert set(services) == {"database", "pooler", "prometheus"}
    mounted = [volume.split(":")[0] for volume in services["prometheus"]["volumes"]]
    ours = {name.removeprefix("./") for name in mounted if name.startswith("./")}
    assert ours <= {row.file for row in SHIPPED.values()}
    assert services["pooler"]["build"]["dockerfile"] == SHIPPED["containerfile"].file
    (target,) = yaml.safe_load(SHIPPED["prometheus"].text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.split(":")[0] in services
    for port in (mapping.split(":")[-1] for mapping in services["pooler"]["ports"]):
        assert port in re.findall(r"\d+", re.search(r"^EXPOSE (.*)$", SHIPPED["containerfile"].text(), re.M)[1])  # type: ignore[index]
    printed = dict(re.findall(r"(\w+):([\w.]+)", re.search(r"for name in (.*); do", SHIPPED["compose"].text())[1]))  # type: ignore[index]
    assert all(SHIPPED[name].file == file for name, file in printed.items())


def test_the_containers_command_is_understood() -> None:
    import json

    from pooler.commands.flags import parse

    command = json.loads(re.search(r"^CMD (\[.*\])$", SHIPPED["containerfile"].text(), re.M)[1])  # type: ignore[index]
    assert command[0] == "serve"
    assert parse(command[1:]).http == ("*", 9127)


def test_each_alert_has_its_line_in_the_runbook() -> None:
    rules = yaml.safe_load(SHIPPED["alerts"].text())["groups"]
    alerts = [rule["alert"] for group in rules for rule in group["rules"]]
    assert re.findall(r"^\| (Pooler\w+) \|", SHIPPED["runbook"].text(), re.M) == alerts


@pytest.mark.parametrize("name", ["runbook", "sizing"])
def test_what_a_guide_names_is_there(name: str) -> None:
    """Views, commands and settings."""
    from admin.commands import BY_NAME
    from pooler.config.databases import KEYS
    from pooler.config.settings import OWN, SETTINGS

    known = {*SETTINGS, *OWN, *(key for table in KEYS.values() for key in table)}
    for quoted in re.findall(r"`([^`]+)`", SHIPPED[name].text()):
        if found := re.match(r"(SHOW \w+|[A-Z_]{4,})$", quoted):
            assert found[1] in BY_NAME, quoted
        elif re.fullmatch(r"[a-z]+(_[a-z]+)+", quoted):
            assert quoted in known | {"cl_waiting", "max_connections"}, quoted


def test_the_sizing_guides_figures_are_the_benchmarks() -> None:
    results = (TREE / "tests" / "bench" / "RESULTS.md").read_text()
    text = SHIPPED["sizing"].text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.,]+) \|$", text, re.M)
    assert len(rows) == 7
    for what, figure in rows:
        assert re.search(rf"^\| {re.escape(what)} \| [\d.]+ x \| {re.escape(figure)} \|", results, re.M), what
    for figure in ("1,884", "1,205", "63"):
        assert figure in text
        assert f"| {figure} |" in results


def test_the_license_is_the_projects() -> None:
    import tomllib

    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    assert SHIPPED["license"].text().startswith(f"{project['license']} License\n")
    assert project["license-files"] == ["pooler/LICENSE"]
