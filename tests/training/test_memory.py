"""What training is said to hold, counted by hand on a net whose graph is known."""

import torch
from torch import nn

from gen2embed.training.memory import ChunkMemory, LiveBytes, measure_chunk, predict
from gen2embed.utils.memory import peak_gib, readable


def test_the_state_of_what_is_trained():
    net = nn.Linear(10, 5)
    net.bias.requires_grad_(False)
    chunks = [ChunkMemory(7, 70), ChunkMemory(10, 60)]
    parts = predict(net.parameters(), chunks, vectors=1000).parts
    assert parts == {
        "weights": 4 * 55, "optimizer": 2 * 4 * 50, "gradients": 4 * 50, "features": 0, "embeddings": 3000,
        "graphs": 0, "workspace": 70,
    }  # fmt: skip
    assert predict(net.half().parameters(), chunks, vectors=0).total == 2 * 55 + 3 * 2 * 50 + 70
    kept = predict(net.parameters(), chunks, vectors=0, graphs=4, features=5)
    assert (kept.graphs, kept.workspace, kept.features) == (30, 70, 5)  # the fourth is that of the chunk at work
    seen = predict(net.parameters(), chunks, vectors=0, others=10_000)  # before there are gradients
    assert seen.total == 2 * 55 + 2 * 2 * 50 + 10_000


def test_what_several_ranks_hold():
    """A copy of the gradients while they are added up; what ZeRO divides, by stage."""
    trained = [nn.Parameter(torch.zeros(100))]
    together = predict(trained, [ChunkMemory(0, 10)], vectors=0, ranks=2)
    assert together.total == 400 + 800 + 2 * 400
    sizes = {stage: predict(trained, [ChunkMemory(0, 10)], vectors=0, ranks=4, zero=stage) for stage in (1, 2, 3)}
    assert [(its.weights, its.gradients, its.optimizer) for its in sizes.values()] == [
        (400, 400, 300), (400, 100, 300), (100, 100, 300),
    ]  # fmt: skip


def test_the_graph_is_what_backward_needs():
    """Of tanh its output, which is the next input, each once; no parameter, and nothing that was there before."""
    net = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 30), nn.Tanh())
    rows = torch.randn(7, 10)
    with torch.no_grad():  # it is measured with a graph all the same
        assert measure_chunk(lambda: net(rows), net.parameters()).graph == 4 * 7 * (20 + 30)
    assert all(parameter.grad is None for parameter in net.parameters())
    net.to("meta")
    on_meta = measure_chunk(lambda: net(rows.to("meta")), net.parameters())
    assert on_meta.graph == 4 * 7 * (10 + 20 + 30)  # its input came to be within
    net.requires_grad_(False)
    assert measure_chunk(lambda: net(rows.to("meta")), net.parameters()).graph == 4 * 7 * 30  # the last output


def test_measuring_holds_no_more_than_the_passes():
    """What a graph lets go of is let go of: the intermediate of an operation that keeps its output alone."""
    weight = nn.Parameter(torch.randn(1000))

    def embed():
        return (weight.detach() * 2 + 1).sum() * weight.exp().sum()

    with LiveBytes() as live:
        counted = measure_chunk(embed, [weight])
    assert counted.graph < 4 * 1000 + 100
    assert counted.peak < 4 * 3 * 1000
    assert live.now < 100


def test_for_people():
    assert readable(3 * 2**20) == "3.0 MiB"
    assert readable(5.25 * 2**30) == "5.2 GiB"
    assert 0.05 < peak_gib(torch.device("cpu")) < 100
