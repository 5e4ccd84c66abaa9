"""The commands of `interpreter.py`, run in forks of the process of `forks.py`."""

import atexit
import contextlib
import fcntl
import multiprocessing
import os
import runpy
import select
import signal
import sys
import threading
import traceback
import types
from pathlib import Path

import torch
from hydra._internal.hydra import Hydra
from interpreter import send

HIGH = 500  # descriptors from here on are nobody's
LIBRARIES = [path for path in sys.path[1:] if path not in os.environ.get("PYTHONPATH", "").split(":")]


def attend(connection, command, descriptors, executable):
    """Fork a command, pass signals on to it, and answer with its exit code. It ends where nobody waits for it."""
    child = os.fork()
    if not child:
        connection.close()
        take(command["descriptors"], descriptors)
        renew(executable)
        os.chdir(command["folder"])
        os.environ.clear()
        os.environ |= command["environment"]
        end(lambda: interpret(*command["args"]))
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    while ended not in select.select([connection, ended], [], [])[0]:
        number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        send(connection, code)


def take(numbers, descriptors):
    """Give descriptors the numbers that they had where they come from."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for number, descriptor in zip(numbers, high, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def renew(executable):
    """Undo in a fork what differs from a new process; `executable` starts further ones."""
    torch.set_num_threads(1)  # renews the pool of threads, which a fork breaks and other threads race for
    sys.executable = executable
    multiprocessing.set_executable(executable)


def skip_mode(args, patch):
    """Have Hydra not compose everything once more, a tenth of a second, only to learn what `hydra.mode` is: None.

    patch: sets an attribute of an object.
    """
    if not any(word in arg for arg in args for word in ("hydra", "experiment", "--config")):
        patch(Hydra, "get_mode", lambda *_, **__: None)


def interpret(*args):
    """Run what Python's command line says, but for its options, to the end of an interpreter."""
    option, *rest = args[next(at for at, arg in enumerate(args) if arg in ("-c", "-m") or not arg.startswith("-")) :]
    first = {"-c": "", "-m": str(Path.cwd())}.get(option, str(Path(option).absolute().parent))
    sys.path[:] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(":")), *LIBRARIES]
    try:
        if option == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        elif option == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [option, *rest]
            runpy.run_path(option, run_name="__main__")
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()


def end(work):
    """Work, and end this process with Python's exit code."""
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
