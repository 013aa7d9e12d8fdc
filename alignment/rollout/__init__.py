"""Rollout engines: `make_engine` builds the one a recipe asks for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from alignment.rollout.engine import Engine, Generation, Sampling
from alignment.rollout.transformers_engine import TransformersEngine
from alignment.rollout.vllm_engine import VllmEngine
from data.schema import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignment.stage import Rollout

__all__ = ["Engine", "Generation", "Sampling", "TransformersEngine", "VllmEngine", "choose_engine", "make_engine"]


def choose_engine(name: str) -> str:
    """The engine that `name` (auto, vllm or transformers) means on this machine.

    auto is vLLM where there is a GPU, else transformers. On one AVX2 thread our loop is the faster of the two, and
    it has no start-up: for 512 prompts of 40 tokens and ragged completions of 32 on average, 155-195 against 124-135
    completions a second at 1.4M parameters, 14 against 12 at 30M; vLLM takes 9 s to import and build.
    `tests/bench/rollout.py` measures it again.
    """
    available = importlib.util.find_spec("vllm") is not None
    if name == "auto":
        return "vllm" if available and torch.cuda.is_available() else "transformers"
    if name not in ("vllm", "transformers"):
        raise UserError(f"rollout.engine={name!r} is not one of auto, vllm, transformers")
    if name == "vllm" and not available:
        raise UserError("rollout.engine=vllm, but vllm is not installed: `make setup` installs it where a wheel "
                        "exists; rollout.engine=transformers needs no wheel")
    return name


def make_engine(model_path: Path, rollout: Rollout, *, max_length: int,
                model: PreTrainedModel | None = None) -> Engine:
    """An engine for prompts and completions of `max_length` tokens together.

    Its weights are read from `model_path`, or, with no second reading from disk, are those of `model`, which is the
    trainer's copy of it.
    """
    if choose_engine(rollout.engine) == "vllm":
        return VllmEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                          kv_cache_mb=rollout.kv_cache_mb, dtype=rollout.dtype, model=model)
    return TransformersEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                              dtype=rollout.dtype, model=model)
