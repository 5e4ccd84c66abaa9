"""How much memory training takes: what is known before it starts, and what is held while it runs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

MOMENTS = 2  # of AdamW, for every trained parameter


def state_bytes(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Bytes of the parameters, and of the gradients and the optimiser's moments of those that are trained."""
    weights = held = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        weights += size
        held += (1 + MOMENTS) * size if parameter.requires_grad else 0
    return weights, held


def graph_bytes(embed: Callable[[], Tensor], parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that the graph of `embed()` keeps for the backward pass, beside the parameters; found by running it."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}
    alive = []  # else a storage may come again at another's address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embed()
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a GPU, else on the machine or within the limit of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return max(0, free)


def readable(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def peak_gib(device: torch.device) -> float:
    """The most that this process held so far, in GiB: on its GPU, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
