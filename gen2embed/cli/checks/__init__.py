"""The checks of `python -m gen2embed doctor`. Each of them yields findings."""
