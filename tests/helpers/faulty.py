"""`python train.py ARGS` with a fault on rank 1, named by the variable FAULT: other rows, an error in a step, a kill of
the rank or of its loader's worker.
"""

import os
import signal

import psutil

from gen2embed.training.module import ContrastiveModule
from gen2embed.world.data import World
from train import main

whole, step = World.pairs, ContrastiveModule.training_step


def fewer(self):
    return whole(self)[:-8]


def broken(self, batch, index):
    if index == 1 and os.environ["FAULT"] == "step":
        raise OSError("the disk of rank 1 is full")
    if index == 1 and os.environ["FAULT"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if index == 1:
        for worker in psutil.Process().children():
            worker.kill()
    step(self, batch, index)


if os.environ.get("LOCAL_RANK") == "1":
    if os.environ["FAULT"] == "rows":
        World.pairs = fewer
    else:
        ContrastiveModule.training_step = broken
main()
