"""The load balancer of `examples/deploy/cluster`: a real nginx in front of two gateways, beside a worker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from busway import SyncClient

from .proxies import nginx_for, running
from .service import Service, until, unused_port
from .test_command_line import busway

pytestmark = pytest.mark.one_database("has a PostgreSQL server of its own")
SITE = Path(__file__).parents[2] / "examples/deploy/cluster/nginx.conf"


@pytest.mark.long
@pytest.mark.fault
def test_clients_of_the_balancer_go_on_at_the_other_gateway(nodes: list[Service], tmp_path: Path) -> None:
    *gateways, worker = nodes
    url = f"--database-url={gateways[0].database_url}"
    made = busway("keys", "create", "balanced", "--create", url, cwd=tmp_path)
    key = next(word for word in made.stdout.split() if word.startswith("bw_"))
    for node in nodes:
        node.key = key
        node.options["role"] = "worker" if node is worker else "gateway"
        node.start()
    site = SITE.read_text(encoding="utf-8")
    for n, gateway in enumerate(gateways, 1):
        site = re.sub(f"gateway-{n}:8000", gateway.url.removeprefix("http://"), site)
    port = unused_port()
    (folder := tmp_path / "nginx").mkdir()
    with (
        running(folder, port, nginx_for(folder, site, port)),
        SyncClient(f"http://127.0.0.1:{port}", key=key) as client,
        client.subscribe("load.one", kinds=["succeeded"], handlers=["one"]).open() as items,
    ):
        # Once a worker is ready, so are its handlers.
        receipts = [client.publish("load.one", {"n": n}) for n in range(10)]
        assert [receipt.runs for receipt in receipts] == [2] * 10
        assert sorted(next(items).event.seq for _ in receipts) == [receipt.seq for receipt in receipts]
        (holder,) = [g for g in gateways if g.ok("GET", "/v1/status")["subscribers"]["connections"]]
        holder.kill()
        (other,) = [gateway for gateway in gateways if gateway is not holder]
        sent = [client.publish("load.one", {"n": n}).seq for n in range(10)]
        assert sorted(next(items).event.seq for _ in sent) == sent
        until(lambda: other.ok("GET", "/v1/status")["subscribers"]["connections"], "it to be there")
