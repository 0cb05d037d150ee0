"""`kd distill CONFIG [STOP]` on gloo ranks whose student FSDP shards: run by test_processes.py under torchrun.

Accelerate shards on accelerators only; it is told that the CPU is one, as in tests/methods/trainers/sharded_update.py,
and everything below it (sharding, checkpoints, gathering) is the real thing. What `accelerate launch --use_fsdp` says
is in the environment. After step STOP every rank is interrupted.
"""

import sys
from unittest import mock

from accelerate import PartialState

from reproductions.distill import run
from tests.methods.trainers.sharded_update import pretend
from tests.reproductions.distill.conftest import _interrupt, _Stop
from tools.cli import main


def stopping(build, step):
    def trainer_for(method, parts):
        trainer = build(method, parts)
        trainer.add_callback(_Stop(step, _interrupt))
        return trainer

    return trainer_for


if __name__ == "__main__":
    config, *stop = sys.argv[1:]
    with mock.patch.object(PartialState, "__init__", pretend(PartialState.__init__)):
        if stop:
            mock.patch.object(run, "trainer_for", stopping(run.trainer_for, int(stop[0]))).start()
        sys.exit(main(["distill", config]))
