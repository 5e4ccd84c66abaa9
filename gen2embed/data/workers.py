"""How a worker process of a loader begins."""

from __future__ import annotations

import os
import signal

import torch

from gen2embed.preemption import survive_once


def start_worker(_: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it is one of several, and was forked
    signal.signal(signal.SIGTERM, survive_once)
    torch.multiprocessing.set_sharing_strategy("file_system")  # a file descriptor a tensor are too many
