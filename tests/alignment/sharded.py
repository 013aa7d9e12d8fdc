"""Stages trained by FSDP2 in several gloo processes, for tests.

On processors Accelerate never shares a model out, whatever it is asked for; the patch below lets it. All else is what
runs on GPUs: Accelerate's own preparation by torch's `fully_shard`, gathering and saving. At the end `fully_shard` is
compared without Accelerate.

Run by torch's launcher as `python -m tests.alignment.sharded FOLDER`, a folder of job files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer

from tests.alignment import fully_sharded, several

create = Trainer.create_accelerator_and_postprocess


def create_sharing(trainer: Trainer) -> None:
    """Makes the accelerator, and then believe it that it can share a model out."""
    create(trainer)
    if trainer.args.fsdp_plugin_args is not None:
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        trainer.is_fsdp_enabled = True


if __name__ == "__main__":
    Trainer.create_accelerator_and_postprocess = create_sharing  # type: ignore[method-assign]
    several.main(Path(sys.argv[1]), last=fully_sharded.compare)
