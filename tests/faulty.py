"""`python train.py ARGS` with a fault on rank 1, named by the variable FAULT: other rows, or an error in a step."""

import os

from gen2embed.data.world import World
from gen2embed.lit import ContrastiveModule
from train import main

whole, step = World.pairs, ContrastiveModule.training_step


def fewer(self):
    return whole(self)[:-8]


def broken(self, batch, index):
    if index == 1:
        raise OSError("the disk of rank 1 is full")
    step(self, batch, index)


if os.environ.get("LOCAL_RANK") == "1":
    if os.environ["FAULT"] == "rows":
        World.pairs = fewer
    else:
        ContrastiveModule.training_step = broken
main()
