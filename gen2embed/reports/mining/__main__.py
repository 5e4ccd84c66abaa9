"""Make a mining run's report again, from its files and its rows alone; no model is loaded.

    python -m gen2embed.reports.mining outputs/mined

Reads clusters.parquet, skipped.parquet and, for where the rows lie, config.yaml; leaves report.html and mining.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gen2embed.utils.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what mine.py left")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of clusters that are shown (default 0)")
    arguments = parser.parse_args()
    # torch and more, which help and a wrong argument do without
    from gen2embed.data.quarantine import valid_pairs
    from gen2embed.reports.html import PAGE, check_page
    from gen2embed.reports.mining.page import write_report
    from gen2embed.reports.mining.rows import read_data

    folder = arguments.folder
    try:
        if not (folder / "clusters.parquet").is_file():
            raise UserError(f"{folder} holds no clusters.parquet; mine.py leaves one in its output_dir")
        check_page(folder / PAGE)
        data = read_data(folder)
        try:
            pairs = data.pairs() if data.on_error == "raise" else valid_pairs(data, folder)
        except UserError as error:
            where = f"the rows of {folder} are not where its config.yaml says"
            raise UserError(f"{where}: {error}; relative paths start in the folder where mine.py ran") from None
        write_report(folder, pairs, data.roots, arguments.seed)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{folder / 'report.html'} and {folder / 'mining.png'} written")


if __name__ == "__main__":
    main()
