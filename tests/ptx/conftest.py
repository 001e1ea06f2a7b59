"""The executor's library, built once a session."""

import pytest
from support import executor
from support.once import once


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if reason := executor.missing():
        pytest.skip(reason)
    return once(tmp_path_factory, "ptx_executor", executor.build)
