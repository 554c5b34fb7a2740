"""`logging` in handler code: ours unless the user's code configures it, at import or in `setup()`."""

from __future__ import annotations

import pytest
import workers_kit as kit

LOGS = """
    import logging, threading, time
    from busway import Context

    log, library = logging.getLogger("shop"), logging.getLogger("library")
    library.addHandler(logging.NullHandler())

    def logs(event, ctx: Context):
        log.debug("left out")
        log.info("on its way\\nto %s", "Ada")
        library.info("from a library")
        logging.warning("careful")
        ctx.log.debug("mine")
"""
OURS = (
    "INFO shop: on its way\n    to Ada\nINFO library: from a library\n"
    "WARNING root: careful\nDEBUG logs: mine\n"
)
THREAD = """
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()  # workers are not forked
"""
AT_IMPORT = """
    logging.basicConfig(format="%(message)s!", level="DEBUG")
"""
IN_SETUP = """
    def setup():
        logging.basicConfig(format="%(message)s!")
"""


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ("", OURS),
        (THREAD, OURS),
        (AT_IMPORT, "left out!\non its way\nto Ada!\nfrom a library!\ncareful!\nDEBUG logs: mine\n"),
        (IN_SETUP, "careful!\nDEBUG logs: mine\n"),  # with Python's default level
        ("    log.setLevel('ERROR')\n", OURS.partition("Ada\n")[2]),
    ],
    ids=["ours", "not forked", "at import", "in setup", "a level of a logger"],
)  # fmt: skip
def test_records_are_kept_as_the_users_code_wants_it(tmp_path, pool, more, kept):
    kit.write(tmp_path, t=LOGS + more)

    async def scenario(bench):
        for _ in range(2):
            assert (await bench.run("t:logs")).log == kept

    kit.drive(scenario, tmp_path, pool, processes=1)


def test_what_is_printed_at_import_and_at_the_end_has_its_file(tmp_path, pool, caplog):
    caplog.set_level("INFO")
    source = """
        print("at", "import")
        print("two\\nlines")
        print("no end", end="")
        def f(event):
            return 1
        def teardown():
            print("torn down")
    """
    kit.write(tmp_path, t=source)

    async def scenario(bench):
        await bench.run("t:f")
        await bench.supervisor.drain(kit.PATIENCE)

    kit.drive(scenario, tmp_path, pool, processes=1)
    lines = [record.getMessage() for record in caplog.records if record.name == "busway.workers.output"]
    assert [line.partition(": ")[2] for line in lines if line.startswith("handlers folder")] == [
        "t.py: at import", "t.py: two", "t.py: lines", "t.py: no end",
    ]  # fmt: skip
    assert [line.partition(": ")[2] for line in lines if line.startswith("worker")] == ["t.py: torn down"]
