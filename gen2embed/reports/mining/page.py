"""The page and the picture of a mining run: `report.html` and `mining.png`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gen2embed.data.pictures import check_pictures
from gen2embed.outputs.claims import of_run
from gen2embed.outputs.paths import write_file
from gen2embed.reports.html import PAGE, WRITER, part_values, write_page
from gen2embed.reports.mining import charts
from gen2embed.reports.mining.figures import MinedSubset, MiningRun, facts, read_run, values
from gen2embed.reports.svg import Draw, svg
from gen2embed.types import ImagePart, Pair
from gen2embed.utils.log import progress

CHART = "mining.png"
GALLERY = 3  # clusters shown of each subset
MEMBERS, CLOSEST = 16, 4  # rows shown of a cluster, and owners shown of those that its anchor skipped
TEXT = 180  # characters shown of a text
THUMBNAIL = 128  # pixels of a picture's longer side

HISTOGRAMS = {
    "similarity": ("Anchor to candidate", "similarity of the anchor's query\nto an owner's positive"),
    "owner_similarity": ("Anchor to owner", "similarity of the anchor's query\nto an owner's query"),
}


def write_report(folder: Path, pairs: Sequence[Pair], roots: Sequence[Path] = (), seed: int = 0) -> None:
    """Write `report.html` and `mining.png` beside a run's clusters.

    Args:
        folder: The folder of the run.
        pairs: The pairs that were mined.
        roots: The folders in which pictures were looked for, for messages.
        seed: The seed of the choice of clusters that are shown.

    Raises:
        UserError: For no clusters, for those of other rows, and for pictures that cannot be opened.
    """
    run = read_run(folder, pairs)
    galleries = [list(gallery(run, subset, seed)) for subset in run.subsets]
    check_pictures((picture for clusters in galleries for rows in clusters for picture in _pictures(run, rows)), roots)
    sections = []
    with progress("drawing the report", len(run.subsets)) as advance:
        for subset, clusters in zip(run.subsets, galleries, strict=True):
            cards, drawn = [_card(run, rows) for rows in clusters], _drawn([subset], f"subset {subset.name}")
            sections.append({"facts": facts(run, subset), "charts": drawn, "cards": cards})
            advance()
    chart = folder / CHART
    write_file(chart, WRITER, lambda file: file.write(_overview(run)), of_run(chart, CHART))
    write_page(
        folder / PAGE,
        "mining/page.html",
        run=run,
        seed=seed,
        members=MEMBERS,
        gallery=GALLERY,
        facts=[section["facts"] for section in sections],
        charts=_drawn(run.subsets, "all subsets"),
        sections=sections,
    )


# --- the gallery ----------------------------------------------------------------------------------------------------


def gallery(run: MiningRun, subset: MinedSubset, seed: int) -> Iterator[dict[str, Any]]:
    """Yield some clusters of a subset: where skipped owners were sampled, clusters of that sample."""
    sampled = np.unique(subset.skipped.cluster)
    clusters = sampled if len(sampled) else np.unique(subset.members.cluster)
    random = np.random.default_rng([seed, *subset.name.encode()])
    for cluster in sorted(random.choice(clusters, min(GALLERY, len(clusters)), replace=False).tolist()):
        rows = subset.members.where(subset.members.cluster == cluster)
        skipped = subset.skipped.where(subset.skipped.cluster == cluster)
        closest = skipped.where(np.argsort(-skipped.owner_similarity, kind="stable")[:CLOSEST])
        yield {
            "number": cluster,
            "size": len(rows.pair),
            "members": rows.where(np.arange(len(rows.pair)) < MEMBERS),
            "skipped": closest,
            "skipped_count": len(skipped.pair),
        }


def _pictures(run: MiningRun, rows: Mapping[str, Any]) -> Iterator[ImagePart]:
    for side in (rows["members"], rows["skipped"]):
        for pair in side.pair:
            yield from run.pairs[pair].pictures


def _card(run: MiningRun, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster as the template shows it."""
    members = rows["members"]
    anchor, own = members.pair[0], float(members.similarity[0])

    def card_row(number: int, similarity: float, owner_similarity: float) -> dict[str, Any]:
        pair = run.pairs[number]
        sides = {"query": run.queries, "positive": run.positives}
        marks = [f"equal {side}" for side, numbers in sides.items() if numbers[number] == numbers[anchor]]
        if not marks and similarity > own:
            marks = ["closer than the anchor's positive"]
        return {
            "pair": pair,
            "query": [part_values(part, TEXT, THUMBNAIL) for part in pair.query.parts],
            "positive": [part_values(part, TEXT, THUMBNAIL) for part in pair.positive.parts],
            "similarities": None if np.isnan(similarity) else (float(similarity), float(owner_similarity)),
            "marks": marks if number != anchor else [],
        }

    columns = ("pair", "similarity", "owner_similarity")
    sides = {
        side: [card_row(*row) for row in zip(*(getattr(rows[side], name) for name in columns), strict=True)]
        for side in ("members", "skipped")
    }
    return {**rows, **sides}


# --- charts ---------------------------------------------------------------------------------------------------------


def _draws(subsets: Sequence[MinedSubset]) -> dict[str, Draw]:
    """Return the charts of one subset, or of several together, without those that would be empty."""
    sizes = np.concatenate([subset.sizes for subset in subsets])
    draws = {"Cluster sizes": charts.sizes(sizes)} if len(sizes) else {}
    for column, (title, label) in HISTOGRAMS.items():
        groups = values(subsets, column)
        if any(map(len, groups.values())):
            draws[title] = charts.similarities(groups, label)
    return draws


def _drawn(subsets: Sequence[MinedSubset], name: str) -> dict[str, Markup]:
    return {title: svg(draw, f"{title}, {name}: histogram") for title, draw in _draws(subsets).items()}


def _overview(run: MiningRun) -> bytes:
    """Return the bytes of `mining.png`."""
    shares = {subset.name: subset.covered / len(subset.pairs) for subset in run.subsets}
    draws = [charts.coverage(shares), *_draws(run.subsets).values()]
    clusters, rows = sum(len(subset.sizes) for subset in run.subsets), len(run.pairs)
    title = f"{run.manifest['kind']}: {clusters:,} clusters of {rows:,} rows"
    if not run.embedded:
        title += "; nothing was embedded, so there are no similarities"
    file = io.BytesIO()
    charts.overview(draws, len(shares), title).savefig(file, dpi=150)
    return file.getvalue()
