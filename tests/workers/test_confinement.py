"""What handler code has of the gateway (nothing), its secrets, and the limits that the operator sets."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import WorkerLimits
from busway.gateway.executors.python.host.environment import handler_environment

CODE = """
    import os, subprocess, sys, threading, traceback

    def looks(event):
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass
        program = [sys.executable, "-c", "import os; print(dict(os.environ))"]
        child = subprocess.run(program, capture_output=True)
        block = open("/proc/self/cmdline").read()
        return {"environ": dict(os.environ), "open": found, "child": child.stdout.decode(), "line": block}

    def tells(event, ctx):
        value = ctx.secrets[event.data]
        print("printed", value)
        sys.stdout.write(value[:3]); sys.stdout.write(value[3:])
        ctx.log.warning("logged %s", value)
        os.write(1, b"")
        print(repr(ctx.secrets), sorted(ctx.secrets), ctx.secrets.get("none"), "TOKEN" in ctx.secrets)
        try:
            raise ValueError(f"inner {value!r}")
        except ValueError as inner:
            raise RuntimeError("x" * 4090 + value + "y" * 9000 + value) from inner

    def has(event, ctx):
        return ctx.secrets[event.data]

    def writes(event):
        with open(event.data, "wb", buffering=0) as file:
            for _ in range(100):
                file.write(bytes(1 << 20))

    def opens(event):
        kept = [open(os.devnull) for _ in range(200)]

    def starts(event):
        kept = []
        try:
            while True:
                kept.append(subprocess.Popen(["sleep", "60"]))
        finally:
            for each in kept:
                each.kill()
                each.wait()

    def who(event):
        return [os.getuid(), os.getgroups(), os.environ["HOME"], os.nice(0)]
"""
OURS = ("pipe:", "socket:", "/memfd:busway-", "/dev/null", "anon_inode:")
ROOT = os.geteuid() == 0
USER = "daemon"  # who has no other processes, as `nobody` has: PostgreSQL of the tests
VALUES = {"TOKEN": "s3cr3t/tok\"en'", "PEM": "-----BEGIN KEY-----\nMIIBVgIBADANBgkq\n-----END KEY-----\n"}


def run(test):
    """Run an async test."""

    @functools.wraps(test)
    def running(**arguments):
        asyncio.run(test(**arguments))

    return running


@run
async def test_handlers_get_nothing_of_the_gateway(folder, pool, monkeypatch, tmp_path):
    gone = {
        "BUSWAY_DATABASE_URL": "postgresql://me:hunter22@db/x", "BUSWAY_KEY": "bw_1_hunter22",
        "BUSWAY_BROKER_URL": "nats://me:hunter22@b", "BUSWAY_TLS_KEY": "/hunter22",
        "busway_jwt_key": "hunter22",
    }  # fmt: skip
    for name, value in {**gone, "BUSWAY_URL": "http://here", "SHOP": "open"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUSWAY_SECRET_TOKEN", VALUES["TOKEN"])
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "file").open("w") as file:
        for each in (server, file):
            os.set_inheritable(each.fileno(), True)
        async with kit.bench(folder, pool) as bench:
            found = json.loads((await bench.run("t:looks")).data)
            assert json.loads((await bench.run("t:has", "TOKEN")).data) == VALUES["TOKEN"]
        inode = os.fstat(server.fileno()).st_ino
    assert found["environ"]["SHOP"] == "open"
    assert found["environ"]["BUSWAY_URL"] == "http://here"
    assert [name for name in found["environ"] if name.upper().startswith("BUSWAY_")] == ["BUSWAY_URL"]
    seen = json.dumps(found)
    assert "hunter22" not in seen
    assert "s3cr3t" not in seen
    assert "PATH" in found["child"]
    links = found["open"].values()
    # Newer versions of libffi, which ctypes uses, keep their own file open.
    assert [link for link in links if not link.startswith((*OURS, "/proc/")) and "/libffi." not in link] == []
    assert f"socket:[{inode}]" not in links


def test_what_is_left_out_of_the_environment():
    given = {"PGPASSWORD": "p", "PGHOST": "h", "BUSWAY_SECRETS_FILE": "/f", "BUSWAY_SECRET_A": "a", "A": "b"}
    assert handler_environment(given) == {"PGPASSWORD": "p", "PGHOST": "h", "BUSWAY_SECRET_A": "a", "A": "b"}
    assert handler_environment(given, postgres=True) == {"PGHOST": "h", "BUSWAY_SECRET_A": "a", "A": "b"}
    assert handler_environment({"HOME": "/x"}, user="root")["HOME"] == pwd.getpwnam("root").pw_dir


def put(path: Path, values: dict[str, str], *, folder: bool) -> None:
    """Write secrets, each file at once."""
    if folder:
        path.mkdir(exist_ok=True)
        for name, value in values.items():
            (path / ".new").write_text(value)
            (path / ".new").rename(path / name)
    else:
        lines = [
            f"{name}='{value}'" if "'" not in value else f"{name}={value}" for name, value in values.items()
        ]
        new = path.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.rename(path)


@run
async def test_executed_workers_have_secrets_and_limits(tmp_path, monkeypatch):
    """An import that starts a thread keeps the zygote from forking."""
    monkeypatch.setenv("BUSWAY_SECRET_TOKEN", VALUES["TOKEN"])
    (tmp_path / "handlers").mkdir()
    kit.write(tmp_path / "handlers", t=CODE + "\n    threading.Timer(1e6, print).start()\n")
    limits = WorkerLimits(file_bytes=4 << 20)
    async with kit.bench(tmp_path / "handlers", processes=1, limits=limits) as bench:
        assert bench.supervisor.status()["zygote"]["starts_workers_by"] == "exec"
        ended = await bench.run("t:tells", "TOKEN")
        assert "s3cr3t" not in f"{ended.log}{ended.error}"
        assert "printed ***" in ended.log
        found = json.loads((await bench.run("t:looks")).data)
        assert "s3cr3t" not in json.dumps(found)
        large = (await bench.run("t:writes", str(tmp_path / "large"))).error
        assert "--worker-file-bytes" in large.message


@pytest.mark.parametrize("in_folder", [False, True])
@run
async def test_secrets_of_a_file_are_read_and_masked(folder, pool, tmp_path, caplog, in_folder):
    path, plain = tmp_path / "secrets", VALUES["TOKEN"]
    put(path, VALUES, folder=in_folder)
    caplog.set_level("INFO")
    async with kit.bench(folder, pool, secrets=path) as bench:
        for name in VALUES:
            ended = await bench.run("t:tells", name)
            assert ended.outcome is Outcome.FAILED
            told = f"{ended.log}{ended.error}"
            assert "printed ***" in ended.log
            assert "logged ***" in ended.log
            assert "\n***" in ended.log  # what was written in two pieces
            assert "RuntimeError" in ended.error.traceback
            assert "inner '***" in ended.error.traceback
            assert "s3cr3t" not in told
            assert "MIIB" not in told
            assert f"['PEM', 'TOKEN'] None {name == 'TOKEN' or 'TOKEN' in VALUES}" in ended.log
            assert "<Secrets: PEM, TOKEN>" in ended.log
        assert json.loads((await bench.run("t:has", "PEM")).data) == VALUES["PEM"].removesuffix(
            "\n" * in_folder
        )
        missing = (await bench.run("t:has", "NEW")).error
        assert missing.type == "MissingSecret"
        assert missing.message == (
            f"there is no secret 'NEW': put it into {path} (--secrets-file), or set BUSWAY_SECRET_NEW "
            "where the gateway starts"
        )
        put(path, {**VALUES, "NEW": "brand new"}, folder=in_folder)
        assert json.loads((await bench.run("t:has", "NEW")).data) == "brand new"
        if in_folder:
            assert "MissingSecret" in str((await bench.run("t:has", "../secrets/NEW")).error)
    assert plain not in caplog.text
    assert "MIIB" not in caplog.text


@run
async def test_a_file_of_secrets_that_is_gone_or_not_text_is_named(folder, pool, tmp_path):
    path = tmp_path / "secrets"
    async with kit.bench(folder, pool, secrets=path) as bench:
        assert "FileNotFoundError" in (await bench.run("t:has", "A")).error.traceback
        path.write_bytes(b"A=\xff")
        assert (await bench.run("t:has", "A")).error.message == (
            f"the file of secrets {str(path)!r} is not UTF-8: save it as UTF-8"
        )


@run
async def test_limits_of_files(folder, pool, tmp_path):
    limits = WorkerLimits(nice=3, file_bytes=4 << 20, open_files=128)
    async with kit.bench(folder, pool, limits=limits) as bench:
        large = (await bench.run("t:writes", str(tmp_path / "large"))).error
        assert large.message == (
            "[Errno 27] File too large "
            "(--worker-file-bytes lets handlers write files of at most 4194304 bytes)"
        )
        many = (await bench.run("t:opens")).error
        assert many.message.endswith("(--worker-open-files lets a worker have 128 files open)")
        assert json.loads((await bench.run("t:who")).data)[-1] == os.nice(0) + 3
    assert (tmp_path / "large").stat().st_size == 4 << 20


@pytest.mark.long
@pytest.mark.skipif(not ROOT, reason="only root can run workers as another user")
@run
async def test_another_user_and_its_processes(pool):
    """Reload and the end of the gateway work, too: a new zygote starts, and nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="busway-user-"))
    try:
        folder.chmod(0o755)
        kit.write(folder, t=CODE)
        if subprocess.run(
            ["cat", __file__, kit.__file__], user=USER, capture_output=True, check=False
        ).returncode:
            pytest.skip("the user of this test cannot read this checkout")
        user = pwd.getpwnam(USER)
        limits = WorkerLimits(user=USER, processes=100)
        async with kit.bench(folder, pool, limits=limits, reload=True) as bench:
            uid, groups, home, _ = json.loads((await bench.run("t:who")).data)
            assert (uid, home) == (user.pw_uid, user.pw_dir)
            assert 0 not in groups
            refused = (await bench.run("t:starts")).error
            assert "(--worker-processes lets the user of handlers have 100 processes" in refused.message
            before = bench.zygote()
            kit.write(folder, t=CODE + "\n    def more(event): return os.getuid()\n")
            await bench.until(lambda: bench.zygote() not in {before, None})
            assert json.loads((await bench.run("t:more")).data) == user.pw_uid
    finally:
        shutil.rmtree(folder)
