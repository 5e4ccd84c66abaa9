"""What `python -m gen2embed` offers: a module for each command, which imports what it needs when it runs.

`commands` does the work, `checks` is the doctor. It imports every other folder.
"""
