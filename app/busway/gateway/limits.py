"""Limits for each client: an API key, or an address. They hold on one node.

A rate is a token bucket, so a client that was quiet may send its whole quota at once. Nothing here takes
longer with more clients.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import msgspec

from busway.gateway.budget import Budget
from busway.gateway.errors import TooManyRequests

MOST_KEPT = 65_536  # clients of one kind that are kept; those with open connections are kept in any case
LONGEST_DEBT = 3600.0  # seconds that a client may have to wait
WAITS = 60.0  # seconds that frames and uploads may have to wait; they are ended if it is more

_RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])", re.ASCII)
_WINDOWS = {"s": 1, "m": 60, "h": 3600}

hits: Counter[str] = Counter()
"""How often a limit was reached since the process started, by its name. `/metrics` shows it."""


class Rate(msgspec.Struct, frozen=True):
    """So many requests in so many seconds."""

    quota: int
    window: int


def read_rate(text: str) -> Rate | None:
    """Return a rate such as `100/s`, `60/m` or `1000/h`, or None for `none`.

    Raises:
        ValueError: it is something else.
    """
    if text in {"", "none"}:
        return None
    form = _RATE.fullmatch(text)
    if form is None:
        raise ValueError('must be requests per second, minute or hour ("100/s", "60/m", "1000/h"), or none')
    return Rate(int(form[1]), _WINDOWS[form[2]])


class Policy(msgspec.Struct, frozen=True):
    """The limits of one client. None, or 0: there is none.

    `bytes`: of requests that have not arrived completely, and of answers that it has not read.
    """

    rate: Rate | None = None
    connections: int = 0
    subscriptions: int = 0
    bytes: int = 0


class Share:
    """What one client uses now.

    Attributes:
        rated: whether it has a rate.
        connections, subscriptions, bytes: as in `Policy`.
    """

    __slots__ = (
        "_at", "_clock", "_high", "_kind", "_line", "_low", "_policy", "_quota", "_speed", "_tokens", "bytes",
        "connections", "rated", "subscriptions",
    )  # fmt: skip

    def __init__(self, kind: str, policy: Policy, clock: Callable[[], float]) -> None:
        self._kind, self._policy, self._clock = kind, policy, clock
        self.rated = policy.rate is not None
        self._quota = self._tokens = float(policy.rate.quota) if policy.rate else 0.0
        self._speed = policy.rate.quota / policy.rate.window if policy.rate else 0.0  # a second
        self._at = clock()
        self._line = b""  # the fields
        self._low = self._high = 0.0  # for which numbers of tokens they are right
        self.connections = self.subscriptions = self.bytes = 0

    # -- requests

    def spend(self) -> bool:
        """Count a request. Return False, and count nothing, if there are too many."""
        if not self.rated:
            return True
        now = self._clock()
        tokens = self._tokens + (now - self._at) * self._speed
        self._at = now
        if tokens > self._quota:  # noqa: PLR1730 - min() takes longer
            tokens = self._quota
        if tokens < 1:
            self._tokens = tokens
            hits[f"{self._kind}_rate"] += 1
            return False
        self._tokens = tokens - 1
        return True

    def charge(self, requests: int) -> None:
        """Count requests that are done already, also beyond the rate: later ones wait for them."""
        rate = self._policy.rate
        if rate is not None:
            self._tokens = max(self._tokens - requests, -LONGEST_DEBT * rate.quota / rate.window)

    def debt(self) -> float:
        """Return in how many seconds what was charged will be paid."""
        rate = self._policy.rate
        if rate is None:
            return 0.0
        now, speed = self._clock(), rate.quota / rate.window
        self._tokens = min(rate.quota, self._tokens + (now - self._at) * speed)
        self._at = now
        if self._tokens >= 0:
            return 0.0
        hits[f"{self._kind}_rate"] += 1
        return -self._tokens / speed

    def too_fast(self) -> TooManyRequests:
        """Return the error for a request that `spend` did not count."""
        rate = self._policy.rate
        shown = "" if rate is None else f"the limit is {rate.quota} requests in {rate.window} s"
        return self._error(f"too many requests of this {self._kind}: {shown}", self._reset())

    def lines(self) -> bytes:
        """Return the header fields that say how much of the rate is left."""
        rate = self._policy.rate
        if rate is None:
            return b""
        if self._low <= self._tokens < self._high:
            return self._line
        left = max(0, math.floor(self._tokens))
        kind, quota = self._kind.encode(), rate.quota
        self._line = b'ratelimit-policy: "%b";q=%d;w=%d\r\nratelimit: "%b";r=%d;t=%d\r\n' % (
            *(kind, quota, rate.window),
            *(kind, left, self._reset()),
        )
        # A percent of a large quota tells a client nothing, and to write the field for each costs time.
        about = quota // 200
        self._low, self._high = (max(1, left - about), left + 1 + about) if left else (0.0, 0.0)
        return self._line

    def _reset(self) -> int:
        """Return seconds until the whole quota is there again, or one request if there is none."""
        rate = self._policy.rate
        if rate is None:
            return 1
        missing = rate.quota - self._tokens if self._tokens >= 1 else 1 - self._tokens
        return max(1, math.ceil(round(missing * rate.window / rate.quota, 6)))

    # -- what lasts

    def connect(self) -> None:
        """Count a connection.

        Raises:
            TooManyRequests: there are too many.
        """
        most = self._policy.connections
        if most and self.connections >= most:
            hits[f"{self._kind}_connections"] += 1
            raise self._error(f"this {self._kind} has {most} open connections, which is the limit")
        self.connections += 1

    def check_subscriptions(self) -> None:
        """Check the number of subscriptions.

        Raises:
            TooManyRequests: there are too many.
        """
        most = self._policy.subscriptions
        if most and self.subscriptions > most:
            hits[f"{self._kind}_subscriptions"] += 1
            raise self._error(f"this {self._kind} has {most} subscriptions, which is the limit")

    def check_bytes(self, size: int) -> None:
        """Check whether so many more bytes may be taken. The first ones may be beyond the limit.

        Raises:
            TooManyRequests: there are too many.
        """
        most = self._policy.bytes
        if most and self.bytes and self.bytes + size > most:
            hits[f"{self._kind}_bytes"] += 1
            raise self._error(
                f"requests and unread answers of this {self._kind} take more than {most} bytes of memory"
            )

    def _error(self, why: str, seconds: int = 1) -> TooManyRequests:
        unit = "in a second" if seconds == 1 else f"in {seconds} s"
        return TooManyRequests(f"{why}: try again {unit}", retry_after=seconds)

    # -- for `Shares`

    @property
    def busy(self) -> bool:
        """Whether something of it lasts."""
        return bool(self.connections or self.subscriptions or self.bytes)

    @property
    def fresh(self) -> bool:
        """Whether it is as a new one."""
        rate = self._policy.rate
        if self.busy or rate is None:
            return not self.busy
        return self._tokens + (self._clock() - self._at) * rate.quota / rate.window >= rate.quota


class Shares:
    """The clients of one kind.

    Clients of which nothing is left to know are forgotten, two for each new one, and the oldest ones without
    connections where there are too many.

    Args:
        kind: `key` or `address`.
        policy: the limits of each.
        clock: monotonic seconds.
    """

    def __init__(self, kind: str, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self._kind, self._policy, self._clock = kind, policy, clock
        self._shares: dict[Any, Share] = {}
        self.limited = policy != Policy()

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, client: object) -> Share | None:
        """Return what a client uses, None if there are no limits."""
        found = self._shares.get(client)
        if found is None and self.limited:
            self._forget()
            found = self._shares[client] = Share(self._kind, self._policy, self._clock)
        return found

    def _forget(self) -> None:
        for _ in range(min(2, len(self._shares))):
            client = next(iter(self._shares))
            share = self._shares.pop(client)
            if share.busy or not (share.fresh or len(self._shares) >= MOST_KEPT):
                self._shares[client] = share  # behind all others


Network = IPv4Network | IPv6Network


class Limits:
    """The limits of all clients.

    Args:
        keys: of each API key.
        addresses: of each address; of IPv6, of each /64.
        unlimited: addresses that have no limits.
    """

    def __init__(
        self, keys: Policy | None = None, addresses: Policy | None = None, unlimited: Sequence[Network] = ()
    ) -> None:
        self.keys = Shares("key", keys or Policy())
        self.addresses = Shares("address", addresses or Policy())
        self._unlimited = tuple(unlimited)

    def of_key(self, key: object) -> Share | None:
        """Return what an API key uses. None: it has no limits, or there is no key."""
        return None if key is None else self.keys.of(key)

    def of_address(self, text: str | None) -> Share | None:
        """Return what an address uses. None: it has no limits, or is none, such as that of a Unix socket."""
        if text is None or not self.addresses.limited:
            return None
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if any(address in network for network in self._unlimited):
            return None
        # The owner of an IPv6 network has at least 2**64 addresses.
        return self.addresses.of(int(address) >> 64 if address.version == 6 else str(address))

    def shares(self, key: object, address: Share | None) -> list[Share]:
        """Return what an API key and an address use, if they have limits."""
        return [share for share in (self.of_key(key), address) if share is not None]

    @contextmanager
    def connected(self, key: object) -> Iterator[None]:
        """Count a connection of an API key, for the time of a block.

        Raises:
            TooManyRequests: the key has too many.
        """
        share = self.of_key(key)
        if share is None:
            yield
            return
        share.connect()
        try:
            yield
        finally:
            share.connections -= 1


NO_LIMITS = Limits()
ADDRESS = "busway.address"
"""In the scope of ASGI: what the address of the client uses (`Share`), None if it has no limits."""


def pace(shares: Sequence[Share], requests: int) -> float:
    """Count requests of a client that may wait. Return for how many seconds, because of those before.

    Raises:
        TooManyRequests: it would be a minute or more. Nothing is counted.
    """
    wait = 0.0
    for share in shares:
        wait = max(wait, share.debt())
        if wait >= WAITS:
            raise share.too_fast()
    for share in shares:
        share.charge(requests)
    return wait


class PartOfBudget(Budget):
    """A budget of which one client may have only a part.

    Args:
        whole: what all clients share.
        share: what the client uses.
    """

    def __init__(self, whole: Budget, share: Share) -> None:
        super().__init__(whole.limit, "")
        self._whole, self._share = whole, share

    def take(self, size: int) -> None:
        """Take bytes.

        Raises:
            TooManyRequests: the client has too many.
            Unavailable: there are not enough.
        """
        self._share.check_bytes(size)
        self._whole.take(size)
        self._share.bytes += size

    def count(self, size: int) -> None:
        """Count bytes that are taken already, also beyond the limits."""
        self._whole.count(size)
        self._share.bytes += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._whole.give(size)
        self._share.bytes -= size


def part_of(whole: Budget, share: Share | None) -> Budget:
    """Return the budget for one client."""
    return whole if share is None else PartOfBudget(whole, share)
