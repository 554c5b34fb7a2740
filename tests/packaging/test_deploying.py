"""The files of `examples/deploy` and the commands of `docs/deploying.md`, used as they stand.

`compose-spec.json` is the schema of the Compose Specification (https://github.com/compose-spec/compose-spec,
Apache License 2.0).
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

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


def test_the_compose_file_fits_its_schema() -> None:
    compose = yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(compose)
    service = compose["services"]["busway"]
    assert service["environment"].keys() <= OPTIONS
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_timeout
    assert [volume.split(":")[1] for volume in service["volumes"]] == ["/data"]
    assert compose["volumes"].keys() == {"data"}
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


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


def test_the_table_has_all_variables_and_options() -> None:
    text = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| option \| variable .+?\n\n", text, re.MULTILINE | re.DOTALL)
    rows = [line.split("|")[1:3] for line in table.strip().splitlines()[2:]]
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
    of_serve = {*re.findall(r"--([a-z][a-z-]+)", said)} - {"help"}
    assert of_serve == {*options} - {"url", "key"}
