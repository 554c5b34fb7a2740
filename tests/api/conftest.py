import pytest

from tests.api.kit import App, Direct, Peer, serving


@pytest.fixture(params=[Direct, App], ids=["endpoint", "asgi"], scope="module")
def shared(request):
    """A server for all tests of a module that leave it as it is: its application, and its port."""
    app = request.param()
    with serving(app) as (port, _):
        yield app, port


@pytest.fixture(params=[Direct, App], ids=["endpoint", "asgi"])
def app(request):
    """An application for a server of its own."""
    return request.param()


@pytest.fixture
def echo(shared):
    return shared[0].echo


@pytest.fixture
def peer(shared):
    peer = Peer(shared[1])
    yield peer
    peer.close()
