"""`make release`: wheel, sources, SBOM and signed checksums. And how `make lint` reads the lock files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tools import locks

from .environments import ROOT

REQUIREMENTS = """
# by make lock
a-b==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:{0} \\
    --hash=sha256:{1}
    # via x
C_d[e]==2.0 \\
    --hash=sha256:{0}
plain==3.0
loose>=1
""".format("0" * 64, "1" * 64)


def test_lock_files_are_read() -> None:
    entries, others = locks.read(REQUIREMENTS)
    assert [(each.name, each.version, each.marker, len(each.hashes)) for each in entries] == [
        ("a-b", "1.0", "python_full_version < '3.12'", 2),
        ("c-d", "2.0", "", 1),
    ]
    assert others == ["plain==3.0", "loose>=1"]


@pytest.mark.long
def test_a_release_is_complete_and_its_checksums_are_signed(tmp_path: Path) -> None:
    def run(*command: str, **more: object) -> str:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    key, folder = tmp_path / "key", tmp_path / "dist"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    python = str(ROOT / ".venv/bin/python")
    said = run(python, "-m", "tools.release", str(folder), "--key", str(key)).split()
    assert said == sorted(file.name for file in folder.iterdir())
    endings = (".cdx.json", ".tar.gz", "-py3-none-any.whl", "SHA256SUMS", "SHA256SUMS.sig")
    assert len(said) == len(endings)
    assert all(any(name.endswith(ending) for name in said) for ending in endings)
    sums = (folder / "SHA256SUMS").read_text()
    lines = [line.split("  ") for line in sums.splitlines()]
    assert [name for _, name in lines] == [name for name in said if not name.startswith("SHA256SUMS")]
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for digest, name in lines)
    (tmp_path / "allowed").write_text(f"maintainers {key.with_suffix('.pub').read_text()}")
    verify = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        str(tmp_path / "allowed"),
        "-I",
        "maintainers",
        "-n",
        "busway-release",
    ]
    run(*verify, "-s", str(folder / "SHA256SUMS.sig"), input=sums)
    (document,) = folder.glob("*.cdx.json")
    bom = json.loads(document.read_text())
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "busway")
    locked, _ = locks.read((ROOT / "requirements.lock").read_text())
    assert {part["purl"] for part in bom["components"]} == {f"pkg:pypi/{e.name}@{e.version}" for e in locked}
    assert all(part["hashes"] for part in bom["components"])
    refused = subprocess.run(
        [python, "-m", "tools.release", str(folder)], cwd=ROOT, capture_output=True, check=False
    )
    assert b"is not empty" in refused.stderr
