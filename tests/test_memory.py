"""What training is said to hold, counted by hand on a net whose graph is known."""

import torch
from torch import nn

from gen2embed.memory import graph_bytes, peak_gib, readable, state_bytes


def test_the_state_of_what_is_trained():
    net = nn.Linear(10, 5)
    net.bias.requires_grad_(False)
    assert state_bytes(net.parameters()) == (4 * 55, 3 * 4 * 50)  # a gradient and two moments
    assert state_bytes(net.half().parameters()) == (2 * 55, 3 * 2 * 50)


def test_the_graph_is_what_backward_needs():
    """Of each layer its input, of tanh its output, which is the next input: each once, and no parameter."""
    net = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 30), nn.Tanh())
    rows = torch.randn(7, 10)
    with torch.no_grad():  # it is measured with a graph all the same
        assert graph_bytes(lambda: net(rows), net.parameters()) == 4 * 7 * (10 + 20 + 30)
    net.requires_grad_(False)
    assert graph_bytes(lambda: net(rows), net.parameters()) == 0


def test_for_people():
    assert readable(3 * 2**20) == "3.0 MiB"
    assert readable(5.25 * 2**30) == "5.2 GiB"
    assert 0.05 < peak_gib(torch.device("cpu")) < 100
