"""What tests of the workers share."""

import pytest


@pytest.fixture(params=["process", "thread"])
def pool(request):
    return request.param
