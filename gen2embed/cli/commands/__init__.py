"""The work of the commands, apart from their arguments, so that `--help` imports no library."""
