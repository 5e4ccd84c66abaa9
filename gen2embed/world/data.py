"""The embedded world on disk: twelve tasks of drawn scenes, as PNG files and rows in MMEB's layout.

    <folder>/train-.../<subset>/original-00000-of-00001.parquet, truth.parquet, images/<subset>/<n>.png
    <folder>/eval-.../<task>/test-00000-of-00001.parquet,                       images/<task>/<n>.png

`truth.parquet` has the meaning of each training row's positive, so that planted false negatives can be counted.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gen2embed.data.benchmark import Benchmark
from gen2embed.data.locate import picture_roots
from gen2embed.data.mmeb import read_tasks
from gen2embed.data.pairs import Mmeb, PairSource
from gen2embed.data.reading import Refused
from gen2embed.data.rows import known_names
from gen2embed.types import Pair
from gen2embed.utils.errors import UserError
from gen2embed.utils.log import log
from gen2embed.world.drawn import Saver, eval_columns, train_columns
from gen2embed.world.tasks import TASKS

VERSION = 1  # of the drawings and files, which is in the name of their folder


@dataclass(frozen=True)
class World(PairSource):
    """The world's training pairs, and its evaluation tasks. Further arguments: see `PairSource`.

    Args:
        folder: The folder in which it is drawn.
        seed: The seed of the scenes.
        rows: Training rows per subset.
        queries: Evaluation queries per task.
        false_negatives: The share of twins among the rows of the retrieval subsets. A twin's positive is another
            wording or drawing of the positive of the row before, so that each is a false negative of the other.
        subsets: The subsets to train on.
    """

    folder: Path
    seed: int = 0
    rows: int = 400
    queries: int = 200
    false_negatives: float = 0.0
    subsets: Sequence[str] = tuple(TASKS)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.queries < 1 or not 0 <= self.false_negatives <= 0.5:
            raise UserError(
                "the world needs rows and queries of at least 1 and false_negatives in [0, 0.5]; "
                f"got rows={self.rows}, queries={self.queries}, false_negatives={self.false_negatives}"
            )

    def train(self) -> Path:
        """Return the folder of the training rows, which are drawn on first use."""
        name = f"train-v{VERSION}-seed{self.seed}-rows{self.rows}-twins{self.false_negatives:g}"
        return self._drawn(Path(self.folder) / name, self._write_train)

    def eval(self) -> Path:
        """Return the folder of the evaluation tasks, which are drawn on first use."""
        return self._drawn(
            Path(self.folder) / f"eval-v{VERSION}-seed{self.seed}-queries{self.queries}", self._write_eval
        )

    def read(self, refused: Callable[[str], Refused] | None) -> list[Pair]:
        """Return the training rows of the chosen subsets."""
        known_names("the world", "subset", TASKS, self.subsets)
        folder = self.train()
        return Mmeb(path=str(folder), image_dir=folder, subsets=self.subsets).read(refused)

    @property
    def roots(self) -> Sequence[Path]:
        return [self.train()]

    def meanings(self, subset: str) -> list[str]:
        """Return the meaning of each training row's positive: rows of one meaning are false negatives of each other."""
        return pq.read_table(self.train() / subset / "truth.parquet")["meaning"].to_pylist()

    @staticmethod
    def _drawn(folder: Path, write: Callable[[Path], None]) -> Path:
        if not folder.is_dir():
            log.info("drawing the world in %s", folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                write(unfinished)
                unfinished.chmod(0o755)
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first
                    raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def _write_train(self, folder: Path) -> None:
        for subset, examples in TASKS.items():
            stream = examples(random.Random(f"train {self.seed} {subset}"), self.false_negatives)
            drawn = list(itertools.islice(stream, self.rows))
            columns = train_columns(drawn, Saver(folder, f"images/{subset}/{{}}.png"))
            (folder / subset).mkdir()
            pq.write_table(pa.table(columns), folder / subset / "original-00000-of-00001.parquet")
            meanings = {"meaning": [example.meaning for example in drawn]}
            pq.write_table(pa.table(meanings), folder / subset / "truth.parquet")

    def _write_eval(self, folder: Path) -> None:
        for task, examples in TASKS.items():
            drawn = itertools.islice(examples(random.Random(f"eval {self.seed} {task}"), 0.0), self.queries)
            columns = eval_columns(drawn, Saver(folder, f"images/{task}/{{}}.png"))
            (folder / task).mkdir()
            pq.write_table(pa.table(columns), folder / task / "test-00000-of-00001.parquet")


def read_world(
    folder: Path,
    groups: Mapping[str, Sequence[str]],
    seed: int = 0,
    queries: int = 200,
    subsets: Sequence[str] | None = None,
) -> Benchmark:
    """Read the world's evaluation tasks, which are drawn on first use.

    Args:
        folder: The folder in which they are drawn.
        groups: The tasks of each meta-task.
        seed: The seed of the scenes.
        queries: Queries per task.
        subsets: The tasks to read; None for all.
    """
    drawn = World(folder, seed=seed, queries=queries).eval()
    tasks = read_tasks("world", str(drawn), drawn, groups, subsets)
    return Benchmark("world", tasks, groups, roots=picture_roots(drawn))
