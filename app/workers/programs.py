"""How child programs of ours are started: this Python, our code, and nothing from the current directory."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])

# Our root stands on the path only while our packages are found: what lies beside them must not hide
# a library from handler code. From then on submodules are found through their package.
_START = """
import sys
root, module = sys.argv.pop(1), sys.argv.pop(1)
added = root not in sys.path
if added:
    sys.path.insert(0, root)
import app.domain, app.workers, busway
if added:
    sys.path.remove(root)
import importlib
importlib.import_module(module).main()
"""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `main()` of one of our modules in a fresh interpreter."""
    return [sys.executable, "-P", "-c", _START, _ROOT, module, *arguments]
