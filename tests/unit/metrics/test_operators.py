"""What operators get: the dashboard asks for nothing that is not exported, the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from metrics.catalog import CATALOG, UP
from metrics.foreign import command as foreign

RULES = files("metrics.alerts").joinpath("pooler.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads(files("metrics.grafana").joinpath("dashboard.json").read_text())
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
EXPORTED = {figure.name + suffix for figure in (*CATALOG, UP) for suffix in SUFFIXES[figure.kind]}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("text", [RULES, *expressions()], ids=lambda text: text[:40])
def test_only_exported_names_are_asked_for(text: str) -> None:
    asked = set(re.findall(r"\b(?:pgbouncer|pooler)_[a-z_]+", text)) - {"pgbouncer_exporter"}
    assert asked <= EXPORTED


def test_the_dashboard_hangs_together() -> None:
    panels = DASHBOARD["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len(set(places))
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?([a-z]+)", json.dumps(DASHBOARD)))
    assert used == variables


def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{place}", "expr": re.sub(r"\$__rate_interval", "1m", text).replace("$", "")}
        for place, text in enumerate(expressions())
    ]
    path = tmp_path / "panels.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_the_alerts_are_rules(tmp_path: Path) -> None:
    path = tmp_path / "pooler.yml"
    path.write_text(RULES)
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", path)


POOL = 'database="app",user="u",instance="a"'
DB = 'database="app",instance="a"'
CASES: list[tuple[str, dict[str, str], str, dict[str, str]]] = [
    ("PoolerDown", {'pgbouncer_up{instance="a"}': "0x20"}, "2m", {"instance": "a"}),
    ("PoolerAbsent", {}, "6m", {}),
    ("PoolerClientsWaiting", {f"pgbouncer_pools_client_waiting_connections{{{POOL}}}": "3x20"}, "3m",
     {"database": "app", "instance": "a"}),
    ("PoolerLongWait", {f"pgbouncer_pools_client_maxwait_seconds{{{POOL}}}": "11x20"}, "2m",
     {"database": "app", "instance": "a"}),
    ("PoolerPoolExhausted", {
        f"pgbouncer_pools_server_active_connections{{{POOL}}}": "20x20",
        f"pgbouncer_pools_client_waiting_connections{{{POOL}}}": "1x20",
        f"pooler_pool_size{{{POOL}}}": "20x20"}, "2m", {"database": "app", "instance": "a"}),
    ("PoolerClientLimitNear", {
        'pgbouncer_used_clients{instance="a"}': "90x20",
        'pgbouncer_config_max_client_connections{instance="a"}': "100x20"}, "5m", {"instance": "a"}),
    ("PoolerLoginFailures", {f'pooler_login_failures_total{{{DB},reason="refused"}}': "0+60x20"}, "12m",
     {"database": "app", "instance": "a"}),
    ("PoolerServerErrors", {f'pooler_errors_total{{{DB},reason="server connect"}}': "0+60x20"}, "8m",
     {"database": "app", "instance": "a"}),
    ("PoolerTimeouts", {f'pooler_timeouts_total{{{DB},reason="query_wait_timeout"}}': "0+1x20"}, "12m",
     {"database": "app", "instance": "a", "reason": "query_wait_timeout"}),
    ("PoolerSlowWaits", {
        f'pooler_client_wait_seconds_bucket{{{DB},le="1.048576"}}': "0+90x20",
        f'pooler_client_wait_seconds_bucket{{{DB},le="2.097152"}}': "0+100x20",
        f'pooler_client_wait_seconds_bucket{{{DB},le="+Inf"}}': "0+100x20"}, "12m",
     {"database": "app", "instance": "a"}),
    ("PoolerDatabaseHalted", {'pgbouncer_databases_paused{name="app",instance="a"}': "1x20"}, "12m",
     {"name": "app", "instance": "a"}),
    ("PoolerDrainLosesLines",
     {'pooler_drain_dropped_lines_total{kind="https",target="https://x",instance="a"}': "0+5x30"}, "25m",
     {"kind": "https", "target": "https://x", "instance": "a"}),
    ("PoolerFileDescriptorsNearLimit", {
        'pgbouncer_process_open_fds{instance="a"}': "900x20",
        'pgbouncer_process_max_fds{instance="a"}': "1000x20"}, "6m", {"instance": "a"}),
]  # fmt: skip
"""Alert, the series it looks at, when it must fire, the labels it must carry."""


def test_every_alert_has_a_case() -> None:
    assert re.findall(r"- alert: (\w+)", RULES) == [name for name, *_ in CASES]


def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "pooler.yml").write_text(RULES)
    tests = []
    for name, series, at, labels in CASES:
        inputs = [{"series": key, "values": values} for key, values in series.items()]
        tests.append(
            {
                "interval": "1m",
                "input_series": inputs,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": "0s",
                        "exp_samples": [],
                    },
                    {
                        "expr": "ALERTS" + _selector(name, labels),
                        "eval_time": at,
                        "exp_samples": [{"labels": "ALERTS" + _selector(name, labels), "value": 1}],
                    },
                ],
            }
        )
    path = tmp_path / "tests.json"
    path.write_text(json.dumps({"rule_files": ["pooler.yml"], "evaluation_interval": "30s", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", path)


def _selector(name: str, labels: dict[str, str]) -> str:
    severity = re.findall(rf"alert: {name}\n.*?severity: (\w+)", RULES, re.DOTALL)[0]
    whole = {"alertname": name, "alertstate": "firing", "severity": severity, **labels}
    return "{" + ",".join(f'{key}="{value}"' for key, value in whole.items()) + "}"


def test_both_are_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert foreign.main(["--print", "alerts"]) == 0
    assert capsys.readouterr().out == RULES
    assert foreign.main(["--print", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out) == DASHBOARD
