"""A process that has the hub of its environment: runs the scripts and modules that it is told, a JSON line each."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

REPOSITORY = Path(__file__).parent.parent


def run(script: str, *args: str) -> tuple[int, str]:
    """The exit code, and what was said."""
    sys.argv = [script, *args]
    GlobalHydra.instance().clear()
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if script.endswith(".py"):
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
    return (1, f"{said.getvalue()}{code}") if isinstance(code, str) else (code or 0, said.getvalue())


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
