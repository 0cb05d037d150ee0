"""One cache of teachers and starts for all short runs of a file."""

import gc

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Teachers and starts of all runs of a file."""
    gc.collect()
    gc.freeze()  # Trainer collects garbage at each start: among all that is imported, half of a short run
    yield tmp_path_factory.mktemp("cache")
    gc.unfreeze()
