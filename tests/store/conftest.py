import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_builds):
    """In all files of this folder."""
