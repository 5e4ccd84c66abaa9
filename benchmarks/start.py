"""CPU seconds of a fresh process: help, wrong arguments, and the imports of the Python API; medians.

python benchmarks/start.py
"""

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
    "train.py --help": ("train.py", "--help"),
    "train.py with a misspelt key": ("train.py", "trainer.max_stepss=3"),
}
ROUNDS = 5


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    for name, arguments in STARTS.items():
        seconds = statistics.median(cpu_seconds(arguments) for _ in range(ROUNDS))
        print(f"{seconds:6.2f}  {name}", flush=True)
