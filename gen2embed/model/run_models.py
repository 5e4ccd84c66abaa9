"""Find the models of a training run, for messages to users who name its folder, or a file in it, as a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FILES = ("adapter_config.json", "config.json")  # of an adapter, of a whole checkpoint
SHOWN = 3  # models in a message


def models_of(run: Path) -> list[Path]:
    """Return the models of a run: the one of its end, the best one, and those of its steps, newest first."""
    steps = (path for path in (run / "steps").glob("*") if path.name.isdigit())
    folders = [run / "adapter", run / "best", *sorted(steps, key=lambda path: int(path.name), reverse=True)]
    return [path for path in folders if is_model(path)]


def is_model(path: Path) -> bool:
    """Return whether a folder holds an adapter or a checkpoint."""
    return any((path / name).is_file() for name in FILES)


def is_training_run(path: Path) -> bool:
    """Return whether a folder is that of a training run."""
    return (path / "checkpoints" / "run.json").is_file() or bool(models_of(path))


def advice(path: str | Path) -> str:
    """Return the end of a message about a path that holds no model: what to name in its place. Empty if unknown."""
    path = Path(path)
    if path.is_file() and is_model(path.parent):
        return f"; give its folder, {path.parent}"
    for run in (path, path.parent, path.parent.parent):
        if run.is_dir() and is_training_run(run):
            break
    else:
        jobs = [model for job in _folders(path) for model in models_of(job)[:1]]
        return f"; it holds several runs: give the model of one, such as {_listed(jobs)}" if jobs else ""
    kept = f"; checkpoints are for going on with their run, by output_dir={run}" if "checkpoints" in path.parts else ""
    models = models_of(run)
    if not models:
        return f"{kept}; the run {run} has not written a model yet: its training ends with {run / 'adapter'}"
    return f"{kept}; give a model of the run {run}: {_listed(models)}"


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(child for child in path.iterdir() if child.is_dir())


def _listed(models: list[Path]) -> str:
    return " or ".join(map(str, models[:SHOWN])) + (f" ({len(models)} in all)" if len(models) > SHOWN else "")
