"""MMEB's scores in the form of its public leaderboard.

Format: https://huggingface.co/spaces/TIGER-Lab/MMEB-Leaderboard, as VLM2Vec's experiments/report_score_v2.py writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from gen2embed.data.benchmark import ModelFacts

METRICS = {"hit@1": "precision@1", "precision@1": "precision@1", "recall@1": "precision@1", "hit@5": "recall@5",
           "recall@5": "recall@5", "hit@10": "recall@10", "recall@10": "recall@10"}  # fmt: skip


def leaderboard(scores: Mapping[str, Any], model: ModelFacts) -> dict[str, Any]:
    """Return the score sheet of a run. With one right candidate a query, hit and recall are the same.

    The model's name is the last part of its folder or hub id, and the adapter's digest. The submitter fills in the
    release date and the link.
    """
    return {
        "metadata": {
            "model_name": Path(model.name).name + (f" + {model.adapter[:8]}" if model.adapter else ""),
            "model_backbone": model.model_type,
            "model_size": round(model.parameters / 1e9, 2),
            "embedding_dimension": model.dim,
            "max_length_tokens": model.max_length,
            "model_release_date": None,
            "data_source": "Self-Reported",
            "url": None,
            "report_generated_date": datetime.now().isoformat(),
        },
        "metrics": {"image": {name: _sheet(task) for name, task in scores["tasks"].items()}, "visdoc": {}, "video": {}},
    }


def _sheet(task: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"num_pred": task["queries"], "num_data": task["queries"]}
    return {**{name: task[key] for name, key in METRICS.items()}, **counts}
