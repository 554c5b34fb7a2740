"""The image without a container engine: the Dockerfile's own commands, in an environment of their own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.e2e.service import PATIENCE, clean_environment, until
from tests.ports import unused_port

from .environments import GREET, ROOT, Environment, copy_sources, required, run

DERIVED = ROOT / "examples/deploy/Dockerfile"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def instruction(name: str, text: str = DOCKERFILE) -> list[str]:
    return re.findall(rf"^{name} +(.+)$", text, re.MULTILINE)


def build(folder: Path) -> Environment:
    image = Environment(folder / "opt")
    image.link(*required("server") - {"setuptools"})
    image.copy("setuptools", "pip")
    sources = copy_sources(folder / "src")
    keep_only(sources / "requirements.lock", "setuptools")  # the others are there already, as links
    commands = [command for command in instruction("RUN") if "/opt/busway/bin/" in command]
    assert len(commands) == 2
    for command in commands:
        here = command.replace("/opt/busway/bin/pip", f"{image.python} -m pip")
        run("sh", "-ec", here.replace("/opt/busway", str(image.root)), cwd=sources, PIP_NO_INDEX="1")
    return image


def keep_only(lock: Path, package: str) -> None:
    entries = re.findall(r"^[a-z].*(?:\n    .*)+", lock.read_text(encoding="utf-8"), re.MULTILINE)
    (kept,) = [entry for entry in entries if entry.startswith(f"{package}==")]
    lock.write_text(kept + "\n", encoding="utf-8")


def variables(image: Environment, folder: Path) -> dict[str, str]:
    """The image's own, with its folders below another, and a port."""
    (given,) = [line for line in instruction("ENV") if "BUSWAY_" in line]
    found = dict(pair.split("=", 1) for pair in given.replace('"', "").split())
    found["PATH"] = found["PATH"].replace("/opt/busway", str(image.root)).replace("$PATH", "/usr/bin:/bin")
    found["BUSWAY_DATABASE_URL"] = found["BUSWAY_DATABASE_URL"].replace("////", f"///{folder}/")
    found["BUSWAY_HANDLERS"] = str(folder) + found["BUSWAY_HANDLERS"]
    found["BUSWAY_PORT"] = str(unused_port())
    return found


def wheel(folder: Path, name: str) -> None:
    """Write a package that handlers may import."""
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files = {
        f"{name}.py": "GREETING = 'hello'\n",
        f"{name}-1.0.dist-info/METADATA": described,
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/RECORD": "",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.mark.long
def test_an_image_that_builds_on_it_installs_what_handlers_import(tmp_path: Path) -> None:
    image = build(tmp_path)
    shutil.copytree(DERIVED.parent, tmp_path / "shop")
    wheel(tmp_path / "wheels", "greetings")
    (tmp_path / "shop/requirements.txt").write_text("greetings\nhttpx\n", encoding="utf-8")
    environment = {
        **variables(image, tmp_path),
        "PIP_CONSTRAINT": str(image.root / "constraints.txt"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }
    commands = instruction("RUN", DERIVED.read_text(encoding="utf-8"))
    assert commands == ["pip install -r requirements.txt"]
    pip = f"{image.python} -m pip"
    for command in commands:
        run("sh", "-ec", command.replace("pip", pip, 1), cwd=tmp_path / "shop", **environment)
    assert "greetings.py" in image.names()
    assert run(image.python, "-c", "import greetings, httpx, busway.gateway.server", **environment) == ""
    with pytest.raises(AssertionError, match=r"msgspec==0\.1"):
        run("sh", "-ec", f"{pip} install msgspec==0.1", **environment)


def test_the_users_of_images_can_write_what_they_need() -> None:
    final = DOCKERFILE.partition("\nFROM ")[2].partition("\nFROM ")[2]
    (user,) = instruction("USER", final)
    assert re.search(rf"--owner={user} .*/app /data /handlers$", instruction("RUN", final)[0])
    assert all(f"--chown={user}:{user} " in copied for copied in instruction("COPY", final))
    assert instruction("VOLUME", final) == ['["/data"]'], "what is copied to /handlers stays"
    derived = DERIVED.read_text(encoding="utf-8")
    assert (instruction("FROM", derived), instruction("USER", derived)) == (["busway"], [])


@pytest.mark.long
def test_the_image_is_built_serves_is_healthy_and_drains(tmp_path: Path) -> None:
    image = build(tmp_path)
    assert {name for name in image.names() if not name.endswith(".dist-info")} == {"busway", "pip"}
    versions = (image.root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("msgspec==") for line in versions)
    assert not any(line.startswith(("busway", "setuptools")) for line in versions)
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/greet.py").write_text(GREET, encoding="utf-8")
    environment = variables(image, tmp_path)
    key = run("busway", "keys", "create", "first", "--create", cwd=data, **environment).strip()
    (healthcheck,) = re.findall(r"CMD (\[.+\])$", instruction("HEALTHCHECK")[0])
    with subprocess.Popen(
        json.loads(instruction("CMD")[0]),
        executable=image.program("busway"),
        env={**clean_environment(), **environment},
        cwd=data,
        stdout=subprocess.PIPE,
        text=True,
    ) as serving:
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline().startswith("busway http://0.0.0.0:")
            run(*json.loads(healthcheck), cwd=data, **environment)
            url = f"http://127.0.0.1:{environment['BUSWAY_PORT']}"
            with httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE
            ) as client:
                published = client.post("/v1/events", json={"type": "t", "data": 7})
                assert published.status_code == 202
                until(lambda: client.get("/v1/runs?state=succeeded").json()["items"], "the run")
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(PATIENCE) == 0
        finally:
            serving.kill()
