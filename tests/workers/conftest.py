"""What tests of the workers share."""

import pytest
import workers_kit as kit


@pytest.fixture(params=["process", "thread"])
def pool(request):
    return request.param


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A handlers folder with the code of the module, as `t.py`."""
    folder = tmp_path_factory.mktemp("handlers")
    kit.write(folder, t=request.module.CODE)
    return folder
