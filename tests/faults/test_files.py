"""Files of the handlers folder that raise, hang or exit when they are imported."""

from __future__ import annotations

import pytest

from .house import Bystanders, House, kill, until

pytestmark = pytest.mark.fault

HANDLER = "from busway import handler\n@handler('faulty.late')\ndef late(event): return 1\n"
BAD = {
    "raises.py": "import nowhere_to_be_found\n" + HANDLER,
    "exits.py": "import sys\nsys.exit(3)\n" + HANDLER,
    "dies.py": "import os\nos._exit(3)\n" + HANDLER,
    "crashes.py": "import ctypes\nctypes.string_at(0)\n" + HANDLER,
    "hangs.py": "import time\ndef hang():\n    time.sleep(1000)\nhang()\n" + HANDLER,
    "cannot.py": "def of_course(:\n",
    "leaves.py": "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    "raise ValueError('after all')\n",
}
SAYS = {
    "raises.py": "ModuleNotFoundError",
    "exits.py": "SystemExit",
    "dies.py": "exited with status 3",
    "crashes.py": "killed by SIGSEGV",
    "hangs.py": "in hang",
    "cannot.py": "SyntaxError",
    "leaves.py": "after all",
}


@pytest.mark.long
def test_bad_files_are_reported_and_nothing_else_stops(own_house: House) -> None:
    for name, source in BAD.items():
        own_house.write(name, source)
    own_house.start()
    own_house.settle_in()
    told = {file["file"]: file["error"] for file in own_house.status()["files_that_do_not_import"]}
    assert told.keys() == SAYS.keys()
    for name, says in SAYS.items():
        assert says in told[name], name
    assert {t["file"] for t in own_house.ok("GET", "/v1/targets")["items"] if "file" in t} == SAYS.keys()
    trouble = own_house.ok("GET", "/readyz")["trouble"]
    assert trouble == [f"{name} does not import" for name in sorted(SAYS)]
    assert own_house.run("fine", 1)["state"] == "succeeded"
    before = own_house.census()
    bystanders = Bystanders(own_house)
    zygote = own_house.zygote()
    kill(zygote)
    until(lambda: own_house.zygote() != zygote, "another zygote, which knows what to set aside")
    assert own_house.run("exits", 5)["error"]["message"] == "exited with status 5"
    bystanders.finish()
    own_house.comes_back_to(before)
    assert own_house.stop() == 0
