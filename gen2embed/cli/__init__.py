"""The command line of `python -m gen2embed`: a module a command, which imports its work late."""
