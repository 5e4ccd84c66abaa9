"""The work of the commands, `run(arguments)` of each, apart from their arguments so that `--help` is fast."""
