"""How the processes of a stage are laid out: how many, on how many machines, and what each keeps of a model.

Declarations and checks: starts nothing, and imports nothing that computes. A batch is one over all processes, so their
number moves a trained model by rounding alone, as the number of threads does, and counts in its identity as that does.
What a policy writes does not depend on it at all: prompts are shared out in the engine's own batches.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from alignment import pinning
from alignment.kinds import GroupTraining, Kind, ProcessReward, SelfSampling, Sft, StageConfig, TrainingConfig
from alignment.preference_kinds import Judge, Sample
from data.schema import UserError

AUTO = "auto"
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
CLUSTERS = ("none", "slurm")
DEEPSPEED = ("zero2", "zero3")
JOB = "SLURM_JOB_ID"  # set where a Slurm job runs


@dataclasses.dataclass(frozen=True)
class Layout:
    """`world` processes, `processes` on each of `nodes` machines, and the strategy by which they share a model."""

    processes: int = 1
    nodes: int = 1
    strategy: str = "ddp"

    @property
    def world(self) -> int:
        return self.processes * self.nodes

    def of(self, kind: Kind, config: StageConfig, *, served: bool = False) -> Layout:
        """What a stage makes of it: training shares models and batches, generation shares prompts, and anything else
        is one process; so is a judge, and a stage that asks a model behind a URL, which waits more than it works, or
        one whose texts are `served`, as servers share prompts out themselves."""
        if kind.trains:
            return self
        if served or isinstance(config, Judge) or (isinstance(config, Sample) and config.model is not None):
            return ALONE
        return dataclasses.replace(self, strategy="ddp") if kind.uses_rollout else ALONE

    def exactness(self, kind: Kind) -> dict[str, Any]:
        """What a stage's last bits depend on here; nothing for one process, and for what is only generated."""
        if self.world == 1 or not kind.trains:
            return {}
        return {"processes": self.world, "strategy": self.strategy}

    def __str__(self) -> str:
        if self.world == 1:
            return "one process"
        machines = "this machine" if self.nodes == 1 else f"each of {self.nodes} machines"
        return f"{self.processes} processes on {machines}, {self.strategy}"


ALONE = Layout()


def make(processes: int | str, nodes: int, strategy: str) -> Layout:
    """The layout of the group `launch`; `auto` is the number of this machine's GPUs, and 1 without any."""
    return Layout(max(1, pinning.gpus()) if isinstance(processes, str) else processes, nodes, strategy)


def check_stages(layout: Layout, stages: Iterable[tuple[str, StageConfig]]) -> None:
    """Raises UserError where a stage cannot be laid out so, on whatever machine."""
    for name, config in stages:
        if isinstance(config, TrainingConfig):
            share_rows(config, layout.world, where=name)
        if layout.world > 1 and layout.strategy != "ddp" and getattr(config, "optimizer", "") == "muon":
            raise UserError(f"launch.strategy={layout.strategy}: Muon needs a matrix whole, and a process would have a "
                            f"share of it; use {name}.optimizer=adamw, or launch.strategy=ddp")
        if isinstance(config, Sft) and layout.world > 1 and layout.strategy == "zero3":
            raise UserError(f"launch.strategy=zero3: {name} keeps the weights of its best step, and DeepSpeed's third "
                            "stage does not give them out; use launch.strategy=fsdp, or zero2")
        if isinstance(config, ProcessReward) and layout.world > 1 and layout.strategy != "ddp":
            raise UserError(f"launch.strategy={layout.strategy}: each process of {name} keeps all of its model; use "
                            f"launch.strategy=ddp, and {name}.lora_rank where it does not fit")
        if layout.world > 1 and getattr(config, "prefetch", False):
            raise UserError(f"{name}.prefetch=True: of {layout.world} processes each would wait for the completions of "
                            "all; use launch.processes=1, or leave it out")
        if isinstance(config, SelfSampling) and layout.world > 1 and layout.strategy != "ddp":
            raise UserError(f"launch.strategy={layout.strategy}: each process of {name} keeps all of its models; use "
                            f"launch.strategy=ddp, and {name}.lora_rank where they do not fit (recipe ppo_fin_8b)")


def share_rows(config: TrainingConfig | GroupTraining, world: int, *, where: str) -> tuple[int, int]:
    """(rows of a forward pass, forward passes of an optimizer step) of each of `world` processes."""
    share, rest = divmod(config.batch_size, world)
    if rest:
        raise UserError(f"{where}.batch_size={config.batch_size}: cannot be shared out evenly to {world} processes; "
                        f"use a multiple of {world}, or another launch.processes")
    micro = min(config.micro_batch_size or share, share)
    if share % micro:
        raise UserError(f"{where}: batch_size {config.batch_size} is not a multiple of micro_batch_size {micro} x "
                        f"{world} process(es)")
    return micro, share // micro


def obstacle(layout: Layout) -> str:
    """Why this machine cannot run the layout, with the way out; "" where it can."""
    found = pinning.gpus()
    if layout.processes > (found or max(2, pinning.CORES)):
        there = f"{found} GPU(s)" if found else f"no GPU and {pinning.CORES} core(s)"
        return (f"launch.processes={layout.processes}: this machine has {there}, and each process takes one; use "
                f"launch.processes={AUTO}")
    if layout.nodes > 1 and JOB not in os.environ:
        return (f"launch.nodes={layout.nodes}: the other machines are reached by Slurm's srun, and this is no Slurm "
                "job; use launch=slurm")
    if layout.world == 1 or layout.strategy == "ddp":
        return ""
    if not found:
        return (f"launch.strategy={layout.strategy}: there is no GPU here, and on processors Accelerate would train by "
                "DDP instead, without a word; use launch.strategy=ddp, or a machine with GPUs")
    if layout.strategy in DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        return (f"launch.strategy={layout.strategy}: DeepSpeed is not installed; `pip install deepspeed`, or use "
                "launch.strategy=fsdp, which shares out the same and needs nothing more")
    return ""
