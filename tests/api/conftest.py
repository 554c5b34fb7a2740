import pytest

from tests.api.kit import App, Peer, serving


@pytest.fixture
def app():
    return App()


@pytest.fixture
def peer(app):
    with serving(app) as (port, _):
        peer = Peer(port)
        yield peer
        peer.close()
