"""One script of many modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from busway.gateway.api.bundle import bundle

from tests.documents.node import Node

MODULES = {
    "app.js": """import { add, Count as Counted } from "./lib/sum.js";
import { two } from "./lib/two.js";

const of = new Counted();
console.log(JSON.stringify([add(two, of.value), typeof one]));
""",
    "lib/sum.js": """import { one } from "../lib/two.js";

export const add = (left, right) => left + right + one;
export class Count {
  value = 3;
}
""",
    "lib/two.js": """const [a, b] = [1, 2];
export const { one, two } = { one: a, two: b };
""",
}


def test_the_script_does_what_the_modules_do(tmp_path: Path) -> None:
    script = bundle(MODULES, "app.js")
    assert "import" not in script
    assert "export" not in script
    file = tmp_path / "script.mjs"
    file.write_text(script, encoding="utf-8")
    assert json.loads(Node().run(str(file)).stdout) == [6, "undefined"]


@pytest.mark.parametrize(
    ("path", "source", "told"),
    [
        ("app.js", 'import { a } from "./nothing.js";\n', "which does not exist"),
        ("app.js", 'import { three } from "./lib/two.js";\n', "does not export"),
        ("app.js", 'import all from "./lib/two.js";\n', "is not taken"),
        ("app.js", "export default 1;\n", "is not taken"),
        ("lib/two.js", 'import { add } from "./sum.js";\nexport const one = 1;\n', "needs itself"),
    ],
)
def test_what_is_not_taken_is_refused(path: str, source: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        bundle({**MODULES, path: source}, "app.js")
