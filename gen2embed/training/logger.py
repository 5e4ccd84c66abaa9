"""`metrics.csv`, which a resumed run continues after the step of its checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import csv_logs
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gen2embed.outputs.claims import is_run
from gen2embed.outputs.record import RUN, append, read_record
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import named, write_atomic

HPARAMS = csv_logs.ExperimentWriter.NAME_HPARAMS_FILE
METRICS = csv_logs.ExperimentWriter.NAME_METRICS_FILE


class CSVLogger(csv_logs.CSVLogger):
    """Lightning's logger, which would delete the earlier part of a run, and does not here."""

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        """Take the arguments of Lightning's; raise `UserError` for a folder with such files that no run wrote."""
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)
        folder = Path(self.log_dir)
        recorded = {line["name"] for line in read_record(folder) if line.get("by") == RUN}
        for file in (METRICS, HPARAMS):
            if (folder / file).exists() and file not in recorded and not is_run(folder):
                raise UserError(f"{folder / file} is not of a run; choose another logger.save_dir, or move it away")

    _continues = False
    _early: tuple[int | None, frozenset[str]] = (None, frozenset())

    @rank_zero_only
    def keep(self, step: int) -> None:
        """Continue after `step`: drop the rows of later steps and of the evaluation, which come again."""
        self._continues = True
        path = Path(self.log_dir) / METRICS
        if path.is_file():
            names, rows = _read(path)
            _write(path, names, [row for row in rows if 1 <= int(row["step"]) <= step])

    @rank_zero_only
    def log_early(self, metrics: Mapping[str, float], step: int) -> None:
        """Log and save what Lightning is about to log for `step`, and ignore it when it comes."""
        self.log_metrics(dict(metrics), step)
        self.save()
        self._early = step, frozenset(metrics)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        early, names = self._early
        if step is None or step != early or not names.issuperset(metrics):
            super().log_metrics(dict(metrics), step)

    @rank_zero_only
    def save(self) -> None:
        with named(Path(self.log_dir) / METRICS):
            super().save()

    @property
    @rank_zero_experiment
    def experiment(self) -> csv_logs.ExperimentWriter:
        if self._experiment is None:
            path = Path(self.log_dir) / METRICS
            if not self._continues:
                _record(path.parent)
                path.unlink(missing_ok=True)
            self._experiment = _Writer(self.log_dir)
            self._experiment.metrics_keys = _read(path)[0] if path.is_file() else []
        return self._experiment  # type: ignore[return-value]


def _record(folder: Path) -> None:
    """Record by their names that the log's files in a folder are a run's; their content grows."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_run(folder):
        for name in (METRICS, HPARAMS):
            append(folder, {"name": name, "by": RUN})


class _Writer(csv_logs.ExperimentWriter):
    """Appends rows, and replaces the file in one rename where a row has a new column.

    Both methods are private ones of Lightning 2.6.6, and overridden here, since nothing public does the same.
    """

    def _check_log_dir_exists(self) -> None:
        """Keep the file: `CSVLogger` decides whether it is removed."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _write(path, fieldnames, _read(path)[1])


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows; a last line without a line break is incomplete, and left out."""
    complete, end, _ = path.read_text().rpartition("\n")
    table = csv.DictReader(io.StringIO(complete + end))
    return list(table.fieldnames or []), list(table)


def _write(path: Path, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, list(names))
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))
