"""Somebody else's project with packages `app` and `migrations` of its own, and Busway installed beside it."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.service import PATIENCE, clean_environment, until

from .environments import ROOT, Environment, Installed, run

FILES = {
    "app/__init__.py": "",
    "app/models.py": """
from dataclasses import dataclass

FACTOR = 2


@dataclass
class Order:
    item: str
    quantity: int

    def price(self) -> int:
        return self.quantity * FACTOR
""",
    "migrations/__init__.py": "",
    "migrations/first.py": "REVISION = 'of the project'\n",
    "handlers/orders.py": """
from app.models import Order
from busway import handler


@handler("order.created")
def price(event):
    import migrations.first

    return [Order(**event.data).price(), migrations.first.REVISION]
""",
}


def documented(name: str) -> str:
    """The code of a file that docs/project.md shows."""
    text = (ROOT / "docs/project.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"```python\n# {re.escape(name)}\n(.+?)```", text, re.DOTALL)
    return str(code)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture(params=["process", "thread"])
def shop(
    server: Environment, project: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    made = Installed(server, tmp_path, cwd=project, handlers="handlers", pool=request.param, reload=True)
    made.start()
    yield made
    made.close()


def priced(shop: Installed) -> Any:
    seq = shop.publish("order.created", {"item": "book", "quantity": 3})["seq"]
    shop.finished(seq)
    (result,) = [item for item in shop.results() if item["event"]["seq"] == seq]
    return result["data"]


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.long
def test_handlers_import_the_project_also_after_a_reload(shop: Installed, project: Path) -> None:
    assert priced(shop) == [6, "of the project"]
    change(project / "app/models.py", "FACTOR = 2", "FACTOR = 5")
    until(lambda: priced(shop) == [15, "of the project"], "the changed project")
    change(project / "handlers/orders.py", "[Order", "['new', Order")
    until(lambda: priced(shop) == ["new", 15, "of the project"], "the changed handler")
    assert shop.ok("GET", "/v1/handlers/price")["revision"] == 2


def test_another_folder_is_the_project_when_app_dir_names_it(
    server: Environment, project: Path, tmp_path: Path, elsewhere: Path
) -> None:
    made = Installed(server, tmp_path, elsewhere, handlers=project / "handlers", app_dir="../shop")
    try:
        made.start()
        assert priced(made) == [6, "of the project"]
    finally:
        made.close()


@pytest.mark.long
def test_an_application_of_the_project_uses_the_client(
    server: Environment, shop: Installed, project: Path
) -> None:
    main = documented("app/main.py")
    assert main.count("http://127.0.0.1:8000") == 1
    (project / "app/main.py").write_text(main.replace("http://127.0.0.1:8000", shop.url), encoding="utf-8")
    listener = socket.socket()
    with listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = [server.python, "-m", "uvicorn", "app.main:app", "--fd", str(listener.fileno())]
        application = subprocess.Popen(
            command,
            cwd=project,
            env=clean_environment(),
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/orders"
            answer = httpx.post(address, json={"item": "book", "quantity": 3}, timeout=PATIENCE)
        finally:
            application.terminate()
            application.wait(PATIENCE)
    assert answer.json()["results"] == [[6, "of the project"]]


def test_nothing_of_ours_has_the_names_of_the_project(server: Environment, project: Path) -> None:
    program = (
        "import busway.gateway.main, app.models, migrations.first; print(app.__file__, migrations.__file__)"
    )
    said = run(server.python, "-c", program, cwd=project).split()
    assert said == [str(project / "app/__init__.py"), str(project / "migrations/__init__.py")]


def test_a_project_that_is_not_there_is_one_line(server: Environment, project: Path) -> None:
    said = subprocess.run(
        [server.program("busway"), "serve", "--app-dir", "nowhere"],
        cwd=project, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 2
    assert (
        said.stderr
        == "busway: --app-dir: there is no folder 'nowhere': set --app-dir to the root of your project\n"
    )
