"""Rollout engines: `make_engine` builds the one a recipe asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.rollout.engine import Engine, Generation, PushError, Sampling
from alignment.rollout.transformers_engine import TransformersEngine
from alignment.rollout.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignment.stage import Rollout

__all__ = ["Engine", "Generation", "PushError", "Sampling", "TransformersEngine", "VllmEngine", "make_engine"]


def make_engine(model_path: Path, rollout: Rollout, *, max_length: int, model: PreTrainedModel | None = None,
                guided: bool = False) -> Engine:
    """An engine for prompts and completions of `max_length` tokens together: vLLM where `rollout` names it (what `auto`
    means is settled before a stage starts, alignment/config.py), else transformers.

    Its weights are read from `model_path`, or, with no second reading from disk, are those of `model`, which is the
    trainer's copy of it. `guided`: vLLM is made ready to hold texts to a JSON schema.
    """
    if rollout.engine == "vllm":
        return VllmEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                          kv_cache_mb=rollout.kv_cache_mb, dtype=rollout.dtype, model=model, guided=guided)
    return TransformersEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                              dtype=rollout.dtype, model=model)
