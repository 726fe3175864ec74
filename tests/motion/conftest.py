"""One thread for tiny tensors: on a busy machine, two wait for each other a hundred times longer than they compute."""

import pytest


@pytest.fixture(autouse=True)
def in_one_thread(one_thread: None) -> None:
    """Of every test here."""
