"""One cache of teachers and starts for all short runs of a file."""

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Teachers and starts of all runs of a file."""
    return tmp_path_factory.mktemp("cache")
