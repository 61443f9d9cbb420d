"""What all tests here share: the host that `clients.py` has started."""

import os

import pytest


@pytest.fixture(scope="session")
def address():
    return os.environ["NEXUS_ASKED"]


@pytest.fixture(scope="session")
def url(address):
    return f"http://{address}"
