"""The manifests: what the API takes, and whether their parts, the ini and the container fit each other."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pooler.clients.neighbours import ordinal
from pooler.commands.flags import parse as flags
from pooler.commands.shipped import SHIPPED
from pooler.config.whole import Examined, examine

VERSIONS = ("1.29", "1.33", kubernetes_validate.latest_version())
NAMES = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = "^(0|" + "".join(f"(([0-9]+){unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")) + ")$"
POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {"type": "object", "properties": {"matchLabels": NAMES}, "additionalProperties": False},
                "podMetricsEndpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {
                                "type": "string",
                                "pattern": DURATION,
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The part of prometheus-operator's definition that is used here."""


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(SHIPPED["kubernetes"].text()))


def the(kind: str, name: str = "pooler") -> dict[str, Any]:
    (found,) = (each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod() -> dict[str, Any]:
    found: dict[str, Any] = the("StatefulSet")["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def examined(tmp_path: Path) -> Examined:
    """The ini with a secret beside it."""
    (tmp_path / "databases.ini").write_text("[databases]\napp = host=db.internal dbname=app\n")
    (tmp_path / "userlist.txt").write_text('"app" "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"\n')
    text = the("ConfigMap")["data"]["pooler.ini"].replace("/etc/pooler-secret", str(tmp_path))
    (tmp_path / "pooler.ini").write_text(text)
    return examine(str(tmp_path / "pooler.ini"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_them(version: str) -> None:
    ours = [each for each in documents() if not each["apiVersion"].startswith("monitoring.")]
    kinds = [each["kind"] for each in ours]
    assert kinds == ["ConfigMap", "Service", "Service", "StatefulSet", "PodDisruptionBudget"]
    for each in ours:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_see_a_mistake() -> None:
    wrong = the("StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)
    monitor = the("PodMonitor")
    monitor["spec"]["podMetricsEndpoints"][0]["targetport"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(monitor, POD_MONITOR)


def test_the_operator_takes_the_pod_monitor() -> None:
    jsonschema.validate(the("PodMonitor"), POD_MONITOR)


def test_the_ini_has_no_problem_and_what_it_says_fits(examined: Examined) -> None:
    config = examined.config
    assert (examined.problems, config.warnings) == ((), ())
    assert set(config.databases) == {"app"}
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"postgres": config.settings.listen_port, "http": config.own.http[1]}  # type: ignore[index]
    ready = container()["readinessProbe"]
    assert config.own.drain_delay > ready["periodSeconds"] * ready["failureThreshold"]
    assert (config.settings.listen_addr, config.own.http[0]) == (("*",), "*")  # type: ignore[index]
    mounts = [mount["mountPath"] for mount in container()["volumeMounts"]]
    assert config.settings.unix_socket_dir in mounts
    named = re.findall(r"^[^;\n]*?(/etc/\S+)/", the("ConfigMap")["data"]["pooler.ini"], re.M)
    assert named
    assert set(named) <= set(mounts)
    assert flags(container()["args"][1:]).ini == "/etc/pooler/pooler.ini"
    assert container()["args"][0] == "serve"


def test_the_pods_find_each_other(examined: Examined) -> None:
    """Each pod's name is that of the set with a number; the set's service has no address of its own."""
    chosen = the("StatefulSet")
    peers = the("Service", chosen["spec"]["serviceName"])
    assert examined.config.own.peers_name == peers["metadata"]["name"]
    assert (peers["spec"]["clusterIP"], peers["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert ordinal(f"{chosen['metadata']['name']}-2") == ("pooler-", 2)


def test_everything_is_about_the_same_pods() -> None:
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    services, others = ("pooler", "pooler-peers"), ("StatefulSet", "PodDisruptionBudget", "PodMonitor")
    selectors = [
        *(the("Service", name)["spec"]["selector"] for name in services),
        *(the(kind)["spec"]["selector"]["matchLabels"] for kind in others),
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    ports = {port["name"] for port in container()["ports"]}
    used = {probe["httpGet"]["port"] for name, probe in container().items() if name.endswith("Probe")}
    used |= {port["targetPort"] for name in services for port in the("Service", name)["spec"]["ports"]}
    used |= {endpoint["port"] for endpoint in the("PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert used == ports


def test_secrets_are_in_a_secret_and_the_pod_has_no_rights() -> None:
    text = the("ConfigMap")["data"]["pooler.ini"]
    assert "password" not in text
    assert "[databases]" not in text
    secret = next(volume["secret"] for volume in pod()["volumes"] if volume["name"] == "secret")
    assert secret["defaultMode"] == 0o440
    recipe = SHIPPED["containerfile"].text()
    assert int(re.search(r"--uid (\d+)", recipe)[1]) == pod()["securityContext"]["runAsUser"]  # type: ignore[index]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_probes_ask_what_is_there() -> None:
    assert container()["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container()["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_the_last_command_asks_for_the_end_and_stays_until_it_has_come() -> None:
    """Kubernetes would send a second signal when it is over, and that one ends everything at once."""
    shell, flag, script = container()["lifecycle"]["preStop"]["exec"]["command"]
    service = subprocess.Popen(["sleep", "600"])
    tried = script.replace("-TERM 1;", f"-TERM {service.pid};")
    assert tried.count(str(service.pid)) == 1
    hook = subprocess.Popen([shell, flag, tried], start_new_session=True)
    try:
        assert service.wait(10) == -15
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(0.3)
    finally:
        os.killpg(hook.pid, 9)
        hook.wait()
        service.kill()
