"""What a measurement ran on: the card, its driver, the libraries, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

from gen2embed.utils.commit import git_commit
from gen2embed.utils.memory import readable

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "lightning", "accelerate", "numpy", "pillow")
OPTIONAL = ("sentence-transformers", "flash-attn", "torchvision")
COMMIT = "GEN2EMBED_COMMIT"
FILE = Path(__file__).resolve().parents[2] / "COMMIT"  # for a copy of the tree without git


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a reader of the figures must know, in plain values."""
    return {
        "device": _card(device),
        "driver": _driver() if device.type == "cuda" else "none",
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if device.type == "cuda" else "none",
        "processor": f"{_processors()} cores to use, {platform.machine()}, {torch.get_num_threads()} threads of torch",
        "main memory": f"{readable(psutil.virtual_memory().total)}, /dev/shm {_shared_memory()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {_version(name)}" for name in (*LIBRARIES, *OPTIONAL)),
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit of the code: from the environment, from git, from the file COMMIT, else unknown."""
    written = FILE.read_text().strip() if FILE.is_file() else None
    return os.environ.get(COMMIT) or git_commit() or written or "unknown"


def _card(device: torch.device) -> str:
    if device.type != "cuda":
        return "CPU"
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {readable(card.total_memory)}, {card.multi_processor_count} multiprocessors"


def _driver() -> str:
    """Return the driver's version, the clock and the power limit as they stand; they are read, never set."""
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shared_memory() -> str:
    return readable(shutil.disk_usage("/dev/shm").total) if Path("/dev/shm").is_dir() else "none"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
