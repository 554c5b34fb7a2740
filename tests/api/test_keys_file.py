"""The keys file: what it may have, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from busway.contract.keys import KeyIn
from busway.gateway.access import keysfile
from busway.gateway.access.gate import Gate
from busway.gateway.access.keys import declared_id, digest, key_text
from busway.gateway.access.keysfile import KeysFile, KeysFileError
from busway.gateway.errors import Unauthorized

ONE = f'digest = "sha256:{digest("one").hex()}"\nscopes = ["publish"]\n'
GOOD = f"[keys.shop]\n{ONE}"


def test_a_file_declares_keys_by_name() -> None:
    two = KeyIn(
        name="é 2", scopes=["publish", "subscribe"], types=["a.*"], expires_at="2099-01-31T01:00:00+01:00"
    )
    text = GOOD + keysfile.entry("é 2", digest("two"), two)
    shop, other = keysfile.parse(text.encode(), 5)
    assert (shop.name, shop.scopes, shop.types, shop.expires_at) == ("shop", ["publish"], None, None)
    assert (shop.digest, shop.created_at, shop.source) == (digest("one"), 5, "file")
    assert (other.name, other.scopes, other.types) == ("é 2", ["publish", "subscribe"], ["a.*"])
    assert other.expires_at == 4_073_500_800_000_000
    assert shop.id != other.id
    assert keysfile.parse(b"") == keysfile.parse(b"[keys]") == []


WRONG = {
    "x\n": "line 1",
    "[keys.a]\ndigest = 1\n]": "line 3",
    "\xff": "UTF-8",
    "x = 1": "'x' is unknown",
    "keys = 1": r"\[keys.NAME\]",
    "[keys]\nshop = 1": "keys.shop must be a table",
    "[keys.shop]\nscopes = ['publish']": "keys.shop.digest must be sha256:",
    "[keys.shop]\ndigest = 'bw_1_secret'": "keys.shop.digest must be sha256:",
    GOOD + "name = 'x'": "keys.shop must be a table without a name",
    GOOD + "scope = 'x'": "keys.shop.scope",
    GOOD.replace("publish", "write"): r"keys.shop.scopes.0",
    GOOD + "types = []": "keys.shop.types",
    GOOD + "types = ['a..b']": "keys.shop.types",
    GOOD.replace("publish", "admin") + "types = ['a']": "keys.shop.types: a key with type patterns",
    GOOD + "expires_at = 2027-01-31": "keys.shop.expires_at",
    GOOD + "expires_at = 2027-01-31T00:00:00": "keys.shop.expires_at",
    GOOD + "expires_at = 'soon'": "keys.shop.expires_at",
    GOOD + f"[keys.b]\n{ONE}": "keys.b.digest: keys.shop has it, too",
    '[keys."a\\nb"]\n' + ONE: r'keys."a\\nb".name',
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_in_one_line(text: str) -> None:
    with pytest.raises(KeysFileError, match=WRONG[text]) as problem:
        keysfile.parse(text.encode("latin-1" if text == "\xff" else "utf-8"))
    assert str(problem.value).isprintable()
    assert "bw_1" not in str(problem.value)


def test_a_file_that_becomes_unusable_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(GOOD)
    file = KeysFile(path)
    gate = Gate(lambda: 1, closed=True)

    def look() -> set[int | None]:
        file.read()
        return gate.declare(file.keys)

    def enter(name: str) -> str:
        key = key_text(declared_id(digest(name)), name)
        access = gate.admit([(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())])
        assert access.source == "file"
        return access.name

    assert not gate.open
    look()
    assert enter("one") == "shop"
    for change in (lambda: path.write_text("x"), path.unlink, path.mkdir):
        change()
        assert file.read()
        assert not file.read()
        assert file.error
        assert look() == set()
        assert enter("one") == "shop"
    path.rmdir()
    path.write_text(GOOD.replace("one", "two"))
    path.write_text(f'[keys.two]\ndigest = "sha256:{digest("two").hex()}"\nscopes = ["admin"]\n')
    assert look() == {declared_id(digest("one"))}
    assert file.error is None
    assert enter("two") == "two"
    with pytest.raises(Unauthorized):
        enter("one")
    path.write_text("")
    look()
    assert not gate.open
    with pytest.raises(Unauthorized):
        enter("two")
