"""A process for a session of tests, which forks what they run. It imports nothing before somebody connects.

    python server.py ADDRESS EXECUTABLE

It listens at a socket, and ends with its input. EXECUTABLE runs `interpreter.py`.
"""

import select
import socket
import sys


def main(address, executable):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(100)
    print("ready", flush=True)
    if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
        return
    import forks

    forks.serve(listening, sys.stdin, executable)


if __name__ == "__main__":
    main(*sys.argv[1:])
