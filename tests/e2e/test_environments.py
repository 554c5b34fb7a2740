"""Places and locales in which people start a gateway: names that are not UTF-8, ASCII, files of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import few
from tests.servers import chosen

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment
from .test_command_line import busway

pytestmark = pytest.mark.one_database("places and locales of the process")

HANDLERS = """
import os
from busway import handler
import project_code

print("imported with ü")

@handler("t")
def works(event):
    print("printed ü")
    return [project_code.NAME, os.path.basename(os.path.dirname(__file__)) != ""]

@handler("fails", max_attempts=1)
def fails(event):
    raise ValueError("ü " + __file__)
"""
WORST = "no UTF-8 at all"
LOCALES = {
    "as it is": {},
    "PYTHONIOENCODING": {"PYTHONIOENCODING": "ascii"},
    "LANG": {"LANG": "C", "LC_ALL": "C"},
    WORST: {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "pool"),
    few([*((name, "process") for name in LOCALES), (WORST, "thread")], (WORST, "process")),
)
def test_folders_need_not_have_names_in_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pool: str
) -> None:
    root = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9 \xc3\xbc"))
    for folder in ("handlers", "project"):
        (root / folder).mkdir(parents=True)
    (root / "project/project_code.py").write_text("NAME = 'ü'\n", encoding="utf-8")
    service = Service(root, pool=pool, app_dir=root / "project", workers=1)
    service.write("all.py", HANDLERS)
    service.write("broken.py", "1 / 0\n")
    variables = {**clean_environment(), **LOCALES[name]}
    monkeypatch.setattr("tests.e2e.service.clean_environment", lambda: variables)
    monkeypatch.chdir(root)
    try:
        service.start()
        run = service.run_of(service.publish("t")["seq"])
        assert (run["state"], run["attempts"][0]["log"]) == ("succeeded", "printed ü\n")
        assert [item["data"] for item in service.results()] == [["ü", True]]
        failed = service.run_of(service.publish("fails")["seq"])
        assert failed["error"]["message"].startswith("ü ")
        assert failed["error"]["message"].endswith("/handlers/all.py")
        assert chosen.KIND != "sqlite" or "caf" in service.database_shown
        assert [target for target in service.ok("GET", "/v1/targets")["items"] if target.get("error")]
        assert service.stop() == 0
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert any("imported with ü" in line["event"] for line in lines)
    finally:
        service.close()
    done = subprocess.run(
        [sys.executable, "-m", "busway", "keys", "create", "me", "--create", f"--database-url=sqlite:///{root}/busway.db"],
        env=variables, capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:5]) == (0, b"bw_1_"), done.stderr


@pytest.mark.parametrize(
    "host",
    few(
        [
            "LOCALHOST",
            "app.localhost",
            "localhost.",
            "127.1",
            "127.0.0.2",
            "[::1]",
            "::1",
            "::ffff:127.0.0.1",
        ],
        "LOCALHOST",
        "[::1]",
    ),
)
def test_every_spelling_of_loopback_needs_no_key(make_service: Serve, host: str) -> None:
    service = make_service(workers=1, host=host).start()
    shown = service.url.removeprefix("http://").rpartition(":")[0]
    for name in (host if ":" not in host else shown, "localhost.", "app.localhost", "0x7f.1"):
        assert service.get("/v1/events", headers={"Host": name}).status_code == 200, name
        origin = {"Host": shown, "Origin": f"http://{name}"}
        assert service.get("/v1/events", headers=origin).status_code == 200, name
    for name in ("localhost.evil.com", "127.0.0.1.evil.com", "evil-localhost", "0.0.0.0", "[::]"):
        assert service.get("/v1/events", headers={"Host": name}).status_code == 421, name
        assert service.get("/v1/events", headers={"Origin": f"http://{name}"}).status_code == 403, name
    assert service.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_other_addresses_need_a_key(tmp_path: Path, host: str) -> None:
    (tmp_path / "handlers").mkdir()
    done = busway("serve", "--port=0", f"--host={host}", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "needs an API key" in done.stderr


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "127.0.0.256", "[::1", "x" * 300])
def test_an_address_that_is_none_is_named(tmp_path: Path, host: str) -> None:
    (tmp_path / "handlers").mkdir()
    done = busway("serve", "--port=0", f"--host={host}", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"cannot listen on {host}" in done.stderr
