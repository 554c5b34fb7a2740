"""Tokens and the gate that takes them: what is accepted, what is refused, and when keys are read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from busway.gateway.access.gate import Gate
from busway.gateway.access.issuer import Issuer, IssuerError, read_issuer
from busway.gateway.access.jwks import KeySet
from busway.gateway.access.pending import KeysPending, settled
from busway.gateway.access.scopes import Access
from busway.gateway.access.sessions import Use, set_cookie
from busway.gateway.access.signing import KeysError, read_jwks, read_public
from busway.gateway.access.tokens import TokenRules, Tokens
from busway.gateway.errors import BuswayError, Forbidden, Unauthorized, Unavailable
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.issuers import AUDIENCE, TokenIssuer, encoded

HERE = (b"host", b"localhost:8000")


def clock() -> int:
    return time.time_ns() // 1000


def rules(issuer: TokenIssuer, **more: Any) -> TokenRules:
    known: dict[str, Any] = {
        "issuer": issuer.name,
        "audience": (AUDIENCE,),
        "algorithms": frozenset(),
        "leeway": 0,
    }
    return TokenRules(**{**known, **more})


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with TokenIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def declared(issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """The issuer, with its key in a file."""
    file = tmp_path_factory.mktemp("keys") / "issuer.pem"
    file.write_bytes(issuer.pem)
    return read_issuer(rules(issuer), key_file=file)


@pytest.fixture
def tokens(declared: Issuer) -> Tokens:
    return declared.tokens(clock)[0]


def test_a_token_says_who_it_is_what_it_may_and_until_when(issuer: TokenIssuer, tokens: Tokens) -> None:
    end = int(time.time()) + 60
    text = issuer.token("openid publish subscribe", exp=end, busway_types=["order.**", "cart.*"])
    found = tokens.identify(text)
    assert found.scopes == {"publish", "subscribe"}
    assert (found.types, found.name, found.source) == (("order.**", "cart.*"), "shop", "token")
    assert found.until == end * 1_000_000
    assert tokens.identify(text) is found
    assert found.key is not None
    assert found.key < 0
    assert tokens.identify(issuer.token(sub="other")).key != found.key
    assert tokens.identify(issuer.token(exp=end + 5)).key == found.key
    assert tokens.identify(issuer.token(exp=1e300)).until == 253_402_300_799 * 1_000_000


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": None, "scp": ["publish", "admin"]}, {"publish", "admin"}),
        ({"scope": "openid"}, set()),
        ({"scope": None}, set()),
        ({"scope": "publish", "scp": ["admin"]}, {"publish"}),
    ],
)
def test_the_first_claim_with_scopes_counts(
    issuer: TokenIssuer, tokens: Tokens, claims: dict[str, Any], scopes: set[str]
) -> None:
    assert tokens.identify(issuer.token(**claims)).scopes == scopes


def test_claims_may_have_other_names_and_stand_in_objects(issuer: TokenIssuer, declared: Issuer) -> None:
    named = rules(
        issuer, scope_claims=("realm.roles",), types_claim="https://a.example/types", algorithms={"ES256"}
    )
    tokens = Tokens(named, declared.tokens(clock)[0]._keys, clock)
    claims = {"realm": {"roles": ["publish"]}, "https://a.example/types": "a.* b"}
    found = tokens.identify(issuer.token("admin", **claims))
    assert (found.scopes, found.types) == ({"publish"}, ("a.*", "b"))


def test_no_bad_token_is_accepted_and_the_answer_repeats_nothing_of_it(
    issuer: TokenIssuer, tokens: Tokens, tmp_path: Path
) -> None:
    reasons = {}
    for name, text in issuer.bad_tokens(tmp_path).items():
        with pytest.raises(Unauthorized) as refusal:
            tokens.identify(text)
        told = refusal.value.detail + refusal.value.headers()["WWW-Authenticate"]
        assert told.isascii() or "…" in told
        assert not any(part in told for part in ("..", "admin", "OR 1", "example")), (name, told)
        assert len(refusal.value.detail.encode()) <= 123, told  # it fits a close frame
        assert refusal.value.challenge.startswith('Bearer realm="busway", error="invalid_token", error_desc')
        reasons[name] = refusal.value.detail
    assert "expired" in reasons["expired"]
    assert "audience" in reasons["of another audience"]
    assert "issuer" in reasons["of another issuer"]
    assert "signature" in reasons["changed body"]
    assert "algorithm" in reasons["alg none"]


numbers = (
    st.integers() | st.floats(allow_nan=True) | st.booleans() | st.none() | st.text() | st.just(10**4000)
)
claims = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "scope", "scp", "busway_types", "jti"]),
    st.recursive(
        numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
    ),
)


@settings(max_examples=150, deadline=None)
@given(claims=claims, nonsense=st.text() | st.binary().map(lambda data: f"{encoded(data)}.{encoded(data)}.x"))
def test_whatever_stands_in_a_token_it_is_accepted_or_refused(
    issuer: TokenIssuer, declared: Issuer, claims: dict[str, Any], nonsense: str
) -> None:
    tokens = declared.tokens(clock)[0]
    usual = issuer.claims("publish")
    texts = [nonsense, *(issuer.signed(json.dumps(each).encode()) for each in (claims, {**usual, **claims}))]
    gate = Gate(clock, tokens=tokens)
    for text in texts:
        for prefix in (b"", b"Bearer "):
            value = prefix + text.encode("utf-8", "surrogatepass")
            status = 0
            try:
                assert isinstance(gate.admit([HERE, (b"authorization", value)]), Access)
            except BuswayError as refusal:
                status = refusal.status
            assert status in {0, 401}


def test_remembered_tokens_take_a_bounded_part_of_memory(issuer: TokenIssuer, declared: Issuer) -> None:
    tokens = Tokens(declared.rules, declared.tokens(clock)[0]._keys, clock, most_bytes=5_000)
    texts = [issuer.token(sub=f"{n}", busway_types=["a" * 200], scope="publish") for n in range(20)]
    for text in texts:
        tokens.identify(text)
    assert 1 <= len(tokens._known) < 10
    assert tokens._bytes <= 5_000
    assert tokens.identify(texts[0]).name == "0"


def test_a_remembered_token_ends_in_time(issuer: TokenIssuer, declared: Issuer) -> None:
    now = clock()
    tokens, _ = declared.tokens(lambda: now)
    text = issuer.token(exp=now // 1_000_000 + 5)
    tokens.identify(text)
    now += 6_000_000
    with pytest.raises(Unauthorized, match="has expired"):
        tokens.identify(text)
    assert not tokens._known


def test_keys_of_the_set_are_read_again_but_never_often(issuer: TokenIssuer) -> None:
    async def claim(issuer: TokenIssuer) -> None:
        changes: list[int] = []
        now = 0.0
        keys = KeySet(issuer.url, monotonic=lambda: now)
        tokens = Tokens(rules(issuer, algorithms={"ES256"}), keys, clock)
        keys.start(lambda: changes.append(1))
        old = issuer.token("publish")
        access = await settled(lambda: tokens.identify(old))
        assert (access.scopes, issuer.asked, changes) == ({"publish"}, 1, [1])
        issuer.add("2")
        assert (await settled(lambda: tokens.identify(issuer.token()))).name == "shop"
        assert (issuer.asked, len(keys)) == (2, 2)
        for n in range(500):  # a flood of tokens that claim to be signed with keys that nobody knows
            with pytest.raises(Unauthorized):
                tokens.identify(issuer.token(headers={"kid": f"x{n}"}))
        assert issuer.asked == 2
        issuer.down, now = True, 11.0
        with pytest.raises(KeysPending):
            tokens.identify(issuer.token(headers={"kid": "3"}))
        with pytest.raises(Unauthorized):
            await settled(lambda: tokens.identify(issuer.token(headers={"kid": "3"})))
        assert keys.error == "it answers 503 instead of 200"
        assert tokens.identify(old) is access  # the issuer is away
        assert tokens.identify(issuer.token("admin")).scopes == {"admin"}
        issuer.down = False
        issuer.remove("1")
        now = 30.0
        with pytest.raises(Unauthorized):
            await settled(lambda: tokens.identify(issuer.token(headers={"kid": "3"})))
        assert keys.error is None
        assert not tokens.still_valid(access)
        with pytest.raises(Unauthorized, match="signing key"):
            tokens.identify(old)
        keys.stop()

    with TokenIssuer() as own:
        asyncio.run(claim(own))


def test_without_any_keys_yet_it_is_not_known_whether_a_token_is_good(issuer: TokenIssuer) -> None:
    async def claim(own: TokenIssuer) -> None:
        own.down = True
        keys = KeySet(own.url)
        tokens = Tokens(rules(own, algorithms={"ES256"}), keys, clock)
        keys.start(lambda: None)
        with pytest.raises(Unavailable):
            await settled(lambda: tokens.identify(own.token()))
        keys.stop()

    with TokenIssuer() as own:
        asyncio.run(claim(own))


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [(302, b"", "answers 302"), (200, b" " * 1_048_577, "more than"), (200, b"{}", "no JSON Web Key Set")],
)
def test_an_answer_that_is_no_set_of_keys_is_not_taken(status: int, body: bytes, says: str) -> None:
    async def claim(own: TokenIssuer) -> None:
        own.status, own.body = status, body
        keys = KeySet(own.url)
        keys.start(lambda: None)
        with pytest.raises(KeysPending) as pending:
            keys.missed()
        await pending.value.wait()
        assert says in str(keys.error)
        keys.stop()

    with TokenIssuer() as own:
        asyncio.run(claim(own))


def pem(key: Any) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_bytes(serialization.Encoding.PEM, spki)
    return data


def test_a_key_fits_the_algorithms_of_its_kind_only() -> None:
    long = rsa.generate_private_key(65537, 2048).public_key()
    keys = read_public(pem(long) + b"\n" + pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    assert [sorted(key.algorithms) for key in keys] == [
        ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
        ["EdDSA"],
    ]
    named = {**jwt.algorithms.RSAAlgorithm.to_jwk(long, as_dict=True), "kid": "a", "alg": "PS384"}
    odd = [
        {},
        1,
        {"kty": []},
        {"kty": "RSA"},
        {"kty": "oct", "k": "eA"},
        {**named, "use": "enc"},
        {**named, "d": "1"},
    ]
    assert [key.algorithms for key in read_jwks(json.dumps({"keys": [*odd, named]}).encode())] == [{"PS384"}]
    for text in (
        b"",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b"{",
        b"\xff",
        json.dumps({"keys": odd}).encode(),
    ):
        with pytest.raises(KeysError):
            read_jwks(text)
    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    short = rsa.generate_private_key(65537, 1024).public_key()
    for data, says in ((private.private_bytes(*form), "private"), (pem(short), "1024"), (b"x", "PEM")):
        with pytest.raises(KeysError, match=says):
            read_public(data)


def test_settings_that_do_not_fit_are_refused(issuer: TokenIssuer, tmp_path: Path) -> None:
    key, secret, short = tmp_path / "key.pem", tmp_path / "secret", tmp_path / "short"
    key.write_bytes(issuer.pem)
    secret.write_bytes(b"s" * 32 + b"\n")
    short.write_bytes(b"s" * 31)
    url = issuer.url
    wrong: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
        ({}, {}, "jwt_issuer", "give one of"),
        ({}, {"jwks_url": url, "key_file": key}, "jwt_key_file", "give one of"),
        ({"audience": ()}, {"jwks_url": url}, "jwt_audience", "audience"),
        ({"algorithms": {"none"}}, {"jwks_url": url}, "jwt_algorithm", "'none'"),
        ({"algorithms": {"HS256", "ES256"}}, {"jwks_url": url}, "jwt_algorithm", "'HS256'"),
        ({"algorithms": {"HS256"}}, {"key_file": key}, "jwt_algorithm", "'HS256'"),
        ({"algorithms": {"RS256"}}, {"secret_file": secret}, "jwt_algorithm", "'RS256'"),
        ({"algorithms": {"HS512"}}, {"secret_file": secret}, "jwt_secret_file", "HS256 only"),
        ({"algorithms": {"RS256"}}, {"key_file": key}, "jwt_key_file", "ES256 only"),
        ({}, {"secret_file": key}, "jwt_secret_file", "no shared secret"),
        ({}, {"secret_file": short}, "jwt_secret_file", "32 bytes"),
        ({}, {"key_file": secret}, "jwt_key_file", "PEM"),
        ({}, {"key_file": tmp_path / "none"}, "jwt_key_file", "No such file"),
        ({}, {"jwks_url": "http://issuer.example/jwks"}, "jwt_jwks_url", "https://"),
        ({}, {"jwks_url": "file:///etc/passwd"}, "jwt_jwks_url", "https://"),
        ({}, {"jwks_url": "https://[x/"}, "jwt_jwks_url", "https://"),
    ]
    for more, ways, setting, says in wrong:
        fields = {name: frozenset(value) if name == "algorithms" else value for name, value in more.items()}
        with pytest.raises(IssuerError, match=says) as refusal:
            read_issuer(rules(issuer, **fields), **ways)
        assert refusal.value.setting == setting
    assert read_issuer(rules(issuer), secret_file=secret).rules.algorithms == {"HS256"}


def test_a_token_signs_in_unless_it_has_too_many_patterns_for_a_cookie(
    issuer: TokenIssuer, tokens: Tokens
) -> None:
    gate = Gate(clock, tokens=tokens)
    many = [f"a{number}.{'x' * 60}" for number in range(38)]
    access, cookie = gate.sign_in(issuer.token("publish", busway_types=many), "192.0.2.1")
    assert (access.types, access.actor, access.credential) == (tuple(many), "token:shop", "token")
    assert len(set_cookie(cookie, 43_200, secure=True)) < 4096
    headers = [HERE, (b"cookie", f"busway_session={cookie}".encode())]
    assert gate.admit(headers, Use.READ) == access
    assert gate.holds(access)
    with pytest.raises(Forbidden, match="too long for a cookie"):
        gate.sign_in(
            issuer.token("publish", busway_types=[*many, *(f"b{number}.{'x' * 60}" for number in range(6))]),
            "192.0.2.1",
        )


def test_a_fresh_token_must_be_of_the_same_subject(issuer: TokenIssuer, tokens: Tokens) -> None:
    async def claim() -> None:
        gate = Gate(clock, tokens=tokens)
        access = gate.admit([HERE, (b"authorization", f"Bearer {issuer.token('publish')}".encode())])
        assert (await gate.renew(access, issuer.token("subscribe"))).scopes == {"subscribe"}
        with pytest.raises(Forbidden):
            await gate.renew(access, issuer.token("admin", sub="root"))
        with pytest.raises(Unauthorized):
            await gate.renew(access, "x")
        ticket = gate.ticket(access)
        assert (await gate.redeem(ticket)) == access

    asyncio.run(claim())


def test_a_gateway_with_an_issuer_is_never_open(tokens: Tokens) -> None:
    gate = Gate(clock, tokens=tokens)
    assert not gate.open
    with pytest.raises(Unauthorized, match="missing"):
        gate.admit([HERE])
