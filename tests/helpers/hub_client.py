"""A process that has the hub of its environment: runs the scripts and modules that it is told, a JSON line each."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

REPOSITORY = Path(__file__).parents[2]


def run(script: str, *args: str, **told: Any) -> tuple[int, str]:
    """The exit code, and what was said. told: what `-c CODE` knows as `told`."""
    sys.argv = [script, *args]
    GlobalHydra.instance().clear()
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if script == "-c":
                exec(args[0], {"told": told})
            elif script.endswith(".py"):
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            code = str(error)
    return (1, f"{said.getvalue()}{code}") if isinstance(code, str) else (code or 0, said.getvalue())


if __name__ == "__main__":
    for line in sys.stdin:
        args, told = json.loads(line)
        print(json.dumps(run(*args, **told)), flush=True)
