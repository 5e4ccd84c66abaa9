"""gen2embed for daily use, without a configuration.

`python -m gen2embed COMMAND --help` explains a command. Experiments are run by train.py, mine.py and eval.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from gen2embed.cli import compare, doctor, embed, export, report, search
from gen2embed.utils.errors import UserError
from gen2embed.utils.files import refusal
from gen2embed.utils.redaction import expanded, visible

# The docstring of each is the help, and its `add_arguments` declares the arguments.
COMMANDS = {
    "embed": embed,
    "search": search,
    "compare": compare,
    "report": report,
    "export": export,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 1 for a refused input, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m gen2embed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        description = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=description.partition("\n")[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    args = parser.parse_args(argv)
    for name, value in vars(args).items():  # a shell does not expand the ~ of --output=~/v.npy
        if isinstance(value, Path):
            setattr(args, name, Path(expanded(str(value))))
        elif name in ("model", "adapter"):
            setattr(args, name, expanded(value))
    from gen2embed.utils.log import quieten_libraries  # noqa: PLC0415  # rich is not needed for --help

    quieten_libraries()
    try:
        return import_module(f"gen2embed.cli.commands.{args.command}").run(args) or 0
    except (UserError, OSError) as error:
        message = str(error) if isinstance(error, UserError) else refusal(error)
        if message is None:
            raise
        print(f"error: {visible(message)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
