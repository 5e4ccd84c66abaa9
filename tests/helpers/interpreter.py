"""In place of Python: has the process of `forks.py`, which has imported the libraries, fork and run a command.

    python -IS interpreter.py ADDRESS [-c CODE | -m MODULE | SCRIPT] ARGS

The fork has this process's arguments, environment, folder and open files. Signals are passed on, the exit code comes
back, and where this process is killed the fork ends, too.
"""

import json
import os
import signal
import socket
import sys

STANDALONE = ("submitit.local._local",)  # modules that import little, and whose process id is known to others
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def open_files():
    """The descriptors of this process."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # importing pathlib takes as long as all the rest
        try:
            os.fstat(int(name))
        except OSError:  # of the listing itself
            continue
        yield int(name)


def send(connection, message, descriptors=()):
    text = json.dumps(message).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], descriptors)
    connection.sendall(text)


def receive(connection):
    """A message, and the descriptors that came with it."""
    size, descriptors, *_ = socket.recv_fds(connection, 8, 253)
    left, parts = int.from_bytes(size, "big"), []
    while left:
        parts.append(connection.recv(left))
        left -= len(parts[-1]) or left
    return json.loads(b"".join(parts)), descriptors


def main(address, *args):
    if args[0] == "-m" and args[1] in STANDALONE:
        os.execv(sys.executable, [sys.executable, *args])
    descriptors = list(open_files())
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    folder = os.getcwd()  # noqa: PTH109
    command = {"args": args, "folder": folder, "environment": dict(os.environ), "descriptors": descriptors}
    send(server, command, descriptors)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: server.send(bytes([number])))
    code = receive(server)[0]
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
