from collections.abc import Iterator

import pytest

from tests.servers import chosen
from tests.servers.nats import NatsServer

from .kit import OverNats, OverPostgres


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    server = NatsServer().start()
    yield server
    server.close()


@pytest.fixture(params=["postgres", "nats"])
def adapter(request: pytest.FixtureRequest, nats: NatsServer) -> Iterator[OverPostgres | OverNats]:
    made = OverPostgres(chosen.postgres()) if request.param == "postgres" else OverNats(nats)
    yield made
    made.close()
