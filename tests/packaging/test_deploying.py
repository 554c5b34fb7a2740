"""The files of `examples/deploy` and the commands of `docs/deploying.md`, used as they stand.

`compose-spec.json` is the schema of the Compose Specification (https://github.com/compose-spec/compose-spec).
`kubernetes.json` has the kinds that our files use, without descriptions: those of Kubernetes 1.37 as the
package kubernetes-validate 1.37.0 has them, strict, and `ScaledObject` of KEDA 2.16, from the models of the
package cloudcoil-models-keda 2.16.1.0, closed here. All of them have the Apache License 2.0.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from busway.gateway.settings import Settings

from tests.e2e.service import clean_environment

from .environments import ROOT, Installed, run

FILES = ROOT / "examples/deploy"
DOCS = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
OPTIONS = {f"BUSWAY_{name.upper()}" for name in Settings.model_fields}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip(f"no {name} on this machine")
    assert found, f"CI has no {name}: .ci/run installs it"
    return found


def schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    )


def compose_file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FILES / name).read_text(encoding="utf-8"))
    schema("compose-spec").validate(found)
    return found


def check_node(service: dict[str, Any]) -> None:
    """Check a service of Compose that is a gateway."""
    assert {name for name in service["environment"] if name.startswith("BUSWAY_")} <= OPTIONS
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_timeout
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_the_compose_file_fits_its_schema() -> None:
    compose = compose_file("compose.yaml")
    service = compose["services"]["busway"]
    check_node(service)
    assert [volume.split(":")[1] for volume in service["volumes"]] == ["/data"]
    assert compose["volumes"].keys() == {"data"}


def test_the_compose_file_of_a_cluster_fits_its_schema() -> None:
    services = compose_file("cluster/compose.yaml")["services"]
    roles = {
        name: each["environment"]["BUSWAY_ROLE"] for name, each in services.items() if "hostname" in each
    }
    assert roles == {
        "gateway-1": "gateway",
        "gateway-2": "gateway",
        "worker-1": "worker",
        "worker-2": "worker",
    }
    for name in roles:
        check_node(services[name])
        assert (services[name]["hostname"], services[name]["image"]) == (name, "shop")
        environment = services[name]["environment"]
        host = urlsplit(environment["BUSWAY_DATABASE_URL"]).hostname
        assert services[host]["environment"]["POSTGRES_PASSWORD"] == environment["PGPASSWORD"]
        broker = environment["BUSWAY_BROKER_URL"]
        assert urlsplit(broker.replace(token := services["nats"]["command"][1], "token")).hostname == "nats"
        assert token in broker
    site = (FILES / "cluster/nginx.conf").read_text(encoding="utf-8")
    named = re.findall(r"^ +server (\S+):8000", site, re.MULTILINE)
    assert named == services["balancer"]["depends_on"] == [n for n, r in roles.items() if r == "gateway"]


def objects(name: str) -> list[dict[str, Any]]:
    found = list(yaml.safe_load_all((FILES / "kubernetes" / name).read_text(encoding="utf-8")))
    for each in found:
        schema("kubernetes").validate(each)
    return found


def test_the_files_for_kubernetes_fit_their_schemas() -> None:
    found = objects("busway.yaml")
    (settings,) = (each["data"] for each in found if each["kind"] == "ConfigMap")
    pods = {
        each["metadata"]["name"]: each["spec"]["template"] for each in found if each["kind"] == "Deployment"
    }
    assert pods.keys() == {"busway-gateway", "busway-worker"}
    for name, pod in pods.items():
        (container,) = pod["spec"]["containers"]
        variables = {each["name"]: each for each in container["env"]}
        assert {*variables, *settings} <= OPTIONS
        assert f"busway-{variables['BUSWAY_ROLE']['value']}" == name
        assert variables["BUSWAY_DATABASE_URL"]["valueFrom"]["secretKeyRef"]["key"] == "database-url"
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        needed = int(settings["BUSWAY_DRAIN_TIMEOUT"]) + int(hook[1])
        assert pod["spec"]["terminationGracePeriodSeconds"] > needed
        probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")}
        assert probes == {"liveness": "/healthz", "readiness": "/readyz"}
        image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert f"--uid {pod['spec']['securityContext']['runAsUser']}" in image
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}
    for each in found:
        name, spec = each["metadata"]["name"], each.get("spec", {})
        if each["kind"] == "Service":
            assert spec["selector"] == labels["busway-gateway"]
        elif spec:
            assert spec["selector"]["matchLabels"] == labels[name]
    budgets = {each["metadata"]["name"] for each in found if each["kind"] == "PodDisruptionBudget"}
    assert budgets == pods.keys()


def test_the_object_for_kubernetes_in_the_text_fits_its_schema() -> None:
    (text,) = re.findall(r"^```yaml\n(.+?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    deployment = yaml.safe_load(text)
    schema("kubernetes").validate(deployment)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > Settings().drain_timeout


def test_the_scaler_for_kubernetes_names_workers_and_metrics_that_exist() -> None:
    (scaler,) = objects("keda.yaml")
    names = {each["metadata"]["name"] for each in objects("busway.yaml") if each["kind"] == "Deployment"}
    assert scaler["spec"]["scaleTargetRef"]["name"] in names
    metrics = (ROOT / "app/busway/gateway/api/metrics.py").read_text(encoding="utf-8")
    for trigger in scaler["spec"]["triggers"]:
        named = re.findall(r"busway_\w+", trigger["metadata"]["query"])
        assert named
        assert [metric for metric in named if f'"{metric}"' not in metrics] == []


def test_the_text_names_all_alerts() -> None:
    text = (FILES / "prometheus/busway.rules.yaml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", text)
    docs = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert sorted(alerts) == sorted(re.findall(r"^\| `(Busway\w+)`", docs, re.MULTILINE))


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (FILES / "busway.service").read_text(encoding="utf-8")
    unit = configparser.RawConfigParser(strict=False, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert set(re.findall(r"^Environment=(\w+)=", text, re.MULTILINE)) <= OPTIONS
    assert unit["Service"]["ExecStart"].endswith("/busway serve")
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings().drain_timeout
    file = tmp_path / "busway.service"
    file.write_text(text.replace("ExecStart=/opt/busway/bin/busway", "ExecStart=/bin/true"), encoding="utf-8")
    said = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", file],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in said.stderr.splitlines() if "busway.service" in line]
    assert (said.returncode, about) == (0, []), said.stderr


def test_the_units_of_backups_are_such_that_systemd_takes(tmp_path: Path) -> None:
    for name in ("busway-backup.service", "busway-backup.timer"):
        text = (FILES / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/opt/busway/bin/busway", "/bin/true"), encoding="utf-8")
    said = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in said.stderr.splitlines() if "busway-backup" in line]
    assert (said.returncode, about) == (0, []), said.stderr


def test_the_unit_of_backups_makes_a_copy_and_removes_old_ones(tmp_path: Path) -> None:
    text = (FILES / "busway-backup.service").read_text(encoding="utf-8")
    (database,) = re.findall(r"^Environment=BUSWAY_DATABASE_URL=sqlite:///(.+)$", text, re.MULTILINE)
    (tmp_path / "busway").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m busway "$@"\n', encoding="utf-8")
    (tmp_path / "busway").chmod(0o755)
    backups = tmp_path / "backups/busway"
    backups.mkdir(parents=True)
    for name, days in (("old.db", 16), ("young.db", 13)):
        (backups / name).touch()
        os.utime(backups / name, (then := time.time() - days * 86_400, then))
    ours = {"/opt/busway/bin": tmp_path, "/var/backups/busway": backups, "$$": "$", "%%": "%"}
    for there, here in ours.items():
        assert there in text, there
        text = text.replace(there, str(here))
    url = f"sqlite:///{tmp_path / 'busway.db'}"
    assert database == "/var/lib/busway/busway.db"
    run(tmp_path / "busway", "keys", "create", "me", "--create", BUSWAY_DATABASE_URL=url)
    for command in re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE):
        run(*shlex.split(command), BUSWAY_DATABASE_URL=url)
    made = {path.name for path in backups.iterdir()}
    assert "young.db" in made
    assert "old.db" not in made
    (copy,) = made - {"young.db"}
    assert (backups / copy).stat().st_size > 100_000
    assert (backups / copy).stat().st_mode & 0o077 == 0


@pytest.mark.long
def test_a_copy_that_is_made_while_the_gateway_runs_has_everything(gateway: Installed) -> None:
    (command,) = re.findall(r"^busway (backup .+)$", DOCS, re.MULTILINE)
    gateway.start()
    gateway.publish("t", 7)
    seq = gateway.publish("t", 8)["seq"]
    gateway.finished(seq)
    run(str(gateway.environment.python), "-m", "busway", *command.split(), cwd=gateway.folder)
    gateway.publish("t", "too late")
    assert gateway.stop() == 0
    for path in gateway.folder.glob("busway.db*"):
        path.unlink()
    (gateway.folder / "backup.db").rename(gateway.database)
    gateway.start()
    assert [event["data"] for event in gateway.ok("GET", "/v1/events")["items"]] == [8, 7]
    assert gateway.ok("GET", f"/v1/events/{seq}")["runs"][0]["state"] == "succeeded"


def settings_table() -> list[list[str]]:
    """The table of settings in docs/running.md: options, variables and defaults of each row."""
    text = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| option \| variable .+?\n\n", text, re.MULTILINE | re.DOTALL)
    return [line.split("|")[1:4] for line in table.strip().splitlines()[2:]]


def test_the_table_has_the_defaults_of_the_code() -> None:
    of_the_machine = {"node_name", "workers", "unlimited_address", "jwt_algorithm"}
    for options, _, told in settings_table():
        names = [option.replace("-", "_") for option in re.findall(r"`--([a-z-]+)`", options)]
        values = told.replace("`", "").strip()
        each = values.split(", ")
        for name, value in zip(
            names, each if len(each) == len(names) else [values] * len(names), strict=True
        ):
            if name not in Settings.model_fields or name in of_the_machine:
                continue
            default = getattr(Settings(), name)
            if value in {"none", "off"}:
                assert default in {None, "", (), "none", False}, name
            else:
                assert getattr(Settings.model_validate({name: value}), name) == default, name


def test_the_table_has_all_variables_and_options() -> None:
    rows = [row[:2] for row in settings_table()]
    options = [option for row in rows for option in re.findall(r"`--([a-z-]+)`", row[0])]
    found = [name for row in rows for name in re.findall(r"`(BUSWAY_\w+)`", row[1])]
    assert [f"BUSWAY_{option.upper().replace('-', '_')}" for option in options] == found
    assert sorted(found) == sorted({*OPTIONS, "BUSWAY_URL", "BUSWAY_KEY"})
    said = subprocess.run(
        [program("busway") if shutil.which("busway") else ROOT / ".venv/bin/busway", "serve", "--help"],
        env={**clean_environment(), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Only where a line begins: in a text, an option may be broken at its hyphen.
    of_serve = {*re.findall(r"^[│ *]*--([a-z][a-z-]+)", said, re.MULTILINE)} - {"help", "json"}
    assert of_serve == {*options} - {"url", "key"}
