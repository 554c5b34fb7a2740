"""Prints what a handlers folder has, as JSON: `python -m busway.gateway.cli.folder_report FOLDER APP_DIR`.

It runs in a process of its own, because it imports handler code. Its last line is the report.
"""

from __future__ import annotations

import json
import os
import sys

from busway.domain.event_fields import MAX_EVENT_BYTES
from busway.domain.jsonvalue import MAX_RESULT_BYTES
from busway.gateway.executors.python.child.loading import load
from busway.gateway.executors.python.wire.protocol import Boot


def report(folder: str, app_dir: str) -> str:
    """Import the folder and return the report.

    It has the numbers of `files`, `functions` and `handlers`, the last line of each file's traceback in
    `errors`, and in `notes` pairs of a file and what in it is not loaded.
    """
    roots = [os.fsencode(os.path.realpath(path)) for path in (folder, app_dir)]
    files = load(Boot(roots[0], {}, MAX_RESULT_BYTES, MAX_EVENT_BYTES, roots[1])).files
    return json.dumps(
        {
            "files": sum(not file.error for file in files),
            "functions": sum(len(file.targets) for file in files),
            "handlers": sum(len(file.declarations) for file in files),
            "errors": {
                file.file: file.error.strip().rpartition("\n")[2] for file in files if file.error is not None
            },
            "notes": [(file.file, note) for file in files for note in file.notes],
        }
    )


if __name__ == "__main__":
    output = os.dup(1)
    os.dup2(2, 1)  # what the files print
    text = report(*sys.argv[1:3])
    os.write(output, f"\n{text}\n".encode())
    os._exit(0)  # threads of handler code would keep it
