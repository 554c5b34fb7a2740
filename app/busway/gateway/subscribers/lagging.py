"""Events about subscribers that cannot keep up."""

from __future__ import annotations

from collections.abc import Callable

from busway.domain.handler import Rules
from busway.domain.operations import SUBSCRIBER_LAGGING, notice
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Publish
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.session import Subscription

BEHIND = 1_000  # results that a lagging subscriber has not received
LONG = 10_000_000  # microseconds for which it has been behind, at each look
EVERY = 10_000_000  # microseconds between two events of a node


class LagReports:
    """Stores an event about a subscription that lags, if a handler asks for it.

    A subscription is reported once, until it has caught up. A node makes one event in 10 s: about the
    subscription that is furthest behind.

    Args:
        hub: has the subscriptions.
        rules: match events to handlers.
        commits: stores the events.
        clock: microseconds since 1970.
        node: the name of this node.
    """

    def __init__(self, hub: Hub, rules: Rules, commits: Commits, clock: Callable[[], int], node: str) -> None:
        self._hub, self._rules, self._commits, self._clock, self._node = hub, rules, commits, clock, node
        self._since: dict[Subscription, int] = {}
        self._reported: set[Subscription] = set()
        self._last = 0

    def look(self) -> None:
        """Look at the subscriptions. Call it every few seconds."""
        now = self._clock()
        behind = self._hub.behind(BEHIND)
        self._since = {each: self._since.get(each, now) for each in behind}
        self._reported &= behind.keys()
        found = [each for each in behind if each not in self._reported and now - self._since[each] >= LONG]
        if not found or now - self._last < EVERY:
            return
        worst = max(found, key=lambda each: behind[each])
        data = {
            "node": self._node,
            "subscription": worst.id,
            "durable": worst.durable,
            "behind": behind[worst],
            "lagging": len(behind),
        }
        event = notice(SUBSCRIBER_LAGGING, f"{self._node}:{now}"[:200], worst.id, data, now)
        event.handlers = self._rules.match(event)
        if event.handlers:
            self._last = now
            self._reported.add(worst)
            try:
                storing = self._commits.publish(Publish(rules=self._rules.version, events=[event]))
                storing.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieves it
            except Unavailable:
                self._reported.discard(worst)
