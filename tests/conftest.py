"""What holds for all tests."""

import pytest

from tests.freezing import freeze_imports


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Most of a short training was the search for garbage among the libraries."""
    freeze_imports()
