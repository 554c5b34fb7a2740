"""Build what is released, into `dist`: wheel, sources, SBOM (the list of what is inside), and checksums.

    python -m tools.release dist
    python -m tools.release dist --key KEY      and a signature of the checksums, with a key of OpenSSH

Times in the wheel and the SBOM are that of the newest commit, or SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tools.locks import ROOT, read

_hashes = HashTypeFactory()
SUMS, SIGNED_AS = "SHA256SUMS", "busway-release"
_BUILD = """
import sys
from setuptools.build_meta import build_sdist, build_wheel
folder = sys.argv[1]  # setuptools replaces the arguments
build_sdist(folder)
build_wheel(folder)
"""


def build(folder: Path, epoch: str) -> None:
    """Build sources and wheel, in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "busway"
        listed = _run("git", "ls-files", "-z", "--cached").split("\0")
        for name in filter(None, listed):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        subprocess.run(
            [sys.executable, "-c", _BUILD, str(folder)],
            cwd=copy, env={**os.environ, "SOURCE_DATE_EPOCH": epoch}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def sbom(epoch: str) -> str:
    """Return the SBOM in the format of CycloneDX: the gateway with all packages of its lock, as JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    entries, _ = read((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    root = Component(
        name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"pkg:pypi/{name}@{version}",
        purl=PackageURL("pypi", None, name, version), description=project["description"],
        licenses=[DisjunctiveLicense(id=project["license"])],
        supplier=OrganizationalEntity(name=f"{name} maintainers"),
    )  # fmt: skip
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"{name}/{version}/{epoch}"))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC)
    parts = [
        Component(
            name=entry.name, version=entry.version, type=ComponentType.LIBRARY,
            bom_ref=f"pkg:pypi/{entry.name}@{entry.version}",
            purl=PackageURL("pypi", None, entry.name, entry.version),
            hashes=[_hashes.from_composite_str(f"sha256:{digest}") for digest in entry.hashes],
            description=f"only if {entry.marker}" if entry.marker else None,
        )
        for entry in entries
    ]  # fmt: skip
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(root, parts)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def release(folder: Path, key: Path | None) -> list[Path]:
    """Make all files of a release in a folder, which must be empty or missing. Return them."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: remove what is in it, or choose another folder")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct").strip()
    build(folder.resolve(), epoch)
    (wheel,) = folder.glob("*.whl")
    (folder / f"{wheel.name.split('-py3')[0]}.cdx.json").write_text(sbom(epoch), encoding="utf-8")
    files = sorted(folder.iterdir())
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    if key is not None:
        _run("ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", SIGNED_AS, str(folder / SUMS))
    return sorted(folder.iterdir())


def _run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Make a release and print its files."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--key", type=Path, help="a private key of OpenSSH")
    given = options.parse_args()
    key = given.key.resolve() if given.key else None
    for file in release(given.folder.resolve(), key):
        print(file.name)
    if key is None:
        print(f"{SUMS} is not signed: make release KEY=… signs it", file=sys.stderr)


if __name__ == "__main__":
    main()
