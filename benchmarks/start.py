"""CPU seconds of a fresh process: help, wrong arguments, and the imports of the Python API; medians.

python benchmarks/start.py
"""

import argparse
import resource
import statistics
import subprocess
import sys

STARTS = {
    "import torch": ("-c", "import torch"),
    "from gen2embed import Embedder": ("-c", "from gen2embed import Embedder"),
    "python -m gen2embed --help": ("-m", "gen2embed", "--help"),
    "an unknown command": ("-m", "gen2embed", "embedd"),
    "a misspelt option": ("-m", "gen2embed", "embed", "--roel", "query"),
    "python train.py --help": ("train.py", "--help"),
    "python mine.py --help": ("mine.py", "--help"),
    "python eval.py --help": ("eval.py", "--help"),
}


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 2):  # 2: a command line that is refused
        raise SystemExit(ended.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default 5)")
    rounds = parser.parse_args().rounds
    for name, arguments in STARTS.items():
        seconds = statistics.median(cpu_seconds(arguments) for _ in range(rounds))
        print(f"{seconds:6.2f}  {name}", flush=True)
