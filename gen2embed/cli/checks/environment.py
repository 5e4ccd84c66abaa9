"""Check libraries, device, shared memory and disk."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gen2embed.cli.checks.findings import Finding, State
from gen2embed.config.presets import PACKAGE
from gen2embed.utils.memory import free_bytes, readable
from gen2embed.utils.workers import LARGER, SHARED

LITTLE_DISK, NO_DISK = 5 * 2**30, 100 * 2**20  # bytes: embeddings and checkpoints soon fill it; nothing can be written
LITTLE_SHARED = 2**30  # bytes: a batch of a few hundred pictures; a container has 64 MB unless it asks for more


def check_libraries() -> Iterator[Finding]:
    """Yield a problem for each library that is missing or out of bounds."""
    python, requirements = _bounds()
    wrong = 0
    if platform.python_version() not in python:
        wrong += 1
        yield Finding("problem", f"python {platform.python_version()}: {python} is needed; make an environment with it")
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        if version == "not installed" or not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            yield Finding(
                "problem",
                f"{requirement.name} {version}: {requirement.specifier} is needed; pip install '{requirement}'",
            )
    if not wrong:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")]
        listed = ", ".join([f"python {platform.python_version()}", *versions])
        yield Finding("ok", f"libraries: {listed}; all {len(requirements)} within their bounds")


def _bounds() -> tuple[SpecifierSet, list[Requirement]]:
    """Return the bounds of a clone's pyproject.toml, which may be newer than the installed package's; else its own."""
    clone = PACKAGE.parent / "pyproject.toml"
    if clone.is_file():
        project = tomllib.loads(clone.read_text())["project"]
        return SpecifierSet(project["requires-python"]), [Requirement(line) for line in project["dependencies"]]
    package = importlib.metadata.distribution("gen2embed")
    requirements = [Requirement(line) for line in package.requires or []]
    needed = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    return SpecifierSet(package.metadata["Requires-Python"]), needed


def check_device() -> Iterator[Finding]:
    """Report the GPUs and their free memory, or the CPU's."""
    for index in range(torch.cuda.device_count()):
        free = readable(free_bytes(torch.device("cuda", index)))
        yield Finding("ok", f"GPU {index}: {torch.cuda.get_device_name(index)}, {free} of memory are free")
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds none"
        free = readable(free_bytes(torch.device("cpu")))
        yield Finding(
            "warning",
            f"no GPU, as {why}: small models are fine on {torch.get_num_threads()} CPU threads with {free} of free "
            "memory; for others install a driver and a CUDA build of torch",
        )


def check_shared_memory() -> Iterator[Finding]:
    """Check that loaders' workers have room for their batches; nothing where the system has no such folder."""
    if not SHARED.is_dir():
        return
    usage = shutil.disk_usage(SHARED)
    state = f"shared memory: {readable(usage.free)} of {readable(usage.total)} are free in {SHARED}"
    if usage.free < LITTLE_SHARED:
        yield Finding(
            "warning",
            f"{state}, and loaders' workers keep batches there; {LARGER}, or set batch.workers=0 and engine.workers=0",
        )
    else:
        yield Finding("ok", state)


def check_output_folder(folder: Path) -> Iterator[Finding]:
    """Check that results can be written to a folder, which need not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    remedy = "choose another folder, or free some space"
    free = shutil.disk_usage(place).free
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
            file.flush()
    except OSError as error:
        yield Finding("problem", f"output folder {folder}: cannot be written: {error.strerror}; {remedy}")
        return
    if free < LITTLE_DISK:
        state: State = "problem" if free < NO_DISK else "warning"
        yield Finding(state, f"output folder {folder}: the disk has {readable(free)} left; {remedy}")
    else:
        yield Finding("ok", f"output folder {folder}: can be written, {readable(free)} are free")
