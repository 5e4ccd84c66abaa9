"""The checks of `python -m gen2embed doctor`, each of which returns findings."""
