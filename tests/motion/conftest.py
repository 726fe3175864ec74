"""One thread for tiny tensors: on a busy machine, two wait for each other a hundred times longer than they compute."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
