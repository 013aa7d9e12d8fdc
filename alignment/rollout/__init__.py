"""Rollout engines: `make_engine` builds the one a recipe asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.group import ONE, Group
from alignment.rollout.engine import Engine, Generation, PushError, Sampling
from alignment.rollout.shared import SharedEngine
from alignment.rollout.transformers_engine import TransformersEngine
from alignment.rollout.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignment.stage import Rollout

__all__ = ["Engine", "Generation", "PushError", "Sampling", "SharedEngine", "TransformersEngine", "VllmEngine",
           "make_engine"]


def make_engine(model_path: Path, rollout: Rollout, *, max_length: int, model: PreTrainedModel | None = None,
                group: Group = ONE, guided: bool = False) -> Engine:
    """An engine for prompts and completions of `max_length` tokens together: vLLM where `rollout` names it (what `auto`
    means is settled before a stage starts, alignment/config.py), else transformers.

    Its weights are read from `model_path`, or, with no second reading from disk, are those of `model`, which is the
    trainer's copy of it. The processes of a `group` share its prompts out. `guided`: vLLM is made ready to hold texts
    to a JSON schema.
    """
    engine: Engine
    if rollout.engine == "vllm":
        engine = VllmEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                            kv_cache_mb=rollout.kv_cache_mb, dtype=rollout.dtype, model=model, guided=guided)
    else:
        engine = TransformersEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                                    dtype=rollout.dtype, model=model)
    if group.size == 1:
        return engine
    return SharedEngine(engine, group, max_length=max_length,
                        batch_size=None if rollout.engine == "vllm" else rollout.max_num_seqs)
