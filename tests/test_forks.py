"""What stands in for Python in tests: arguments, streams, files, exit codes and signals are those of a fork."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

READY = "import os, time; print(os.getpid(), flush=True); time.sleep(100); print('late')"


def test_a_command_has_its_arguments_streams_folder_and_files(python, tmp_path):
    read, write = os.pipe()
    code = f"import os, sys; print(sys.argv[1], os.getcwd()); print('!', file=sys.stderr); os.write({write}, b'x')"
    command = [python, "-u", "-c", code, "a b"]
    ended = subprocess.run(command, cwd=tmp_path, pass_fds=[write], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (f"a b {tmp_path}\n", "!\n")
    assert os.read(read, 2) == b"x"
    for descriptor in (read, write):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import sys; sys.exit('no')", 1), ("1 / 0", 1),
     ("import os; os.kill(os.getpid(), 9)", -9), ("import os; os.abort()", -6)],
)  # fmt: skip
def test_a_command_ends_as_its_fork(python, code, expected):
    assert subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_fork(python, number):
    with subprocess.Popen([python, "-c", READY], stdout=subprocess.PIPE, text=True) as program:
        fork = Path("/proc", program.stdout.readline().strip())
        assert fork.exists()
        program.send_signal(number)
        assert program.wait(60) == -number
    until = time.monotonic() + 60
    while fork.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_scripts_and_modules_are_the_main_module(python, tmp_path):
    (tmp_path / "beside.py").write_text("name = 'beside'")
    (tmp_path / "script.py").write_text("import beside, sys; print(__name__, beside.name, sys.argv[1:])")
    for command in ([tmp_path / "script.py", "a"], ["-m", "script", "a"]):
        ended = subprocess.run([python, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ended.stdout == "__main__ beside ['a']\n"
