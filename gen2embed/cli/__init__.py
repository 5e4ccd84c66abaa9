"""What `python -m gen2embed` offers.

A module here declares the arguments of a command, its docstring is the help, and it imports no library. The module of
the same name in `commands` does the work; `checks` are the doctor's. It imports every other folder.
"""
