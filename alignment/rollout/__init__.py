"""Rollout engines: `make_engine` builds the one a recipe asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.group import ONE, Group
from alignment.rollout.engine import Engine, Generation, PushError, Sampling
from alignment.rollout.server_engine import Server, ServerEngine
from alignment.rollout.servers import start_servers
from alignment.rollout.shared import SharedEngine
from alignment.rollout.transformers_engine import TransformersEngine
from alignment.rollout.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignment.stage import Rollout, Serving

__all__ = ["Engine", "Generation", "PushError", "Sampling", "ServerEngine", "SharedEngine", "TransformersEngine",
           "VllmEngine", "make_engine"]


def make_engine(model_path: Path, rollout: Rollout, *, max_length: int, model: PreTrainedModel | None = None,
                group: Group = ONE, guided: bool = False, serving: Serving | None = None) -> Engine:
    """An engine for prompts and completions of `max_length` tokens together: vLLM, here or behind URLs, where `rollout`
    names it (what `auto` means is settled before a stage starts, alignment/engine_choice.py), else transformers.

    Its weights are read from `model_path`, or, with no second reading from disk, are those of `model`, which is the
    trainer's copy of it. The processes of a `group` share its prompts out. `guided`: vLLM, in this process, is made
    ready to hold texts to a JSON schema. Servers need `model` and `serving`.
    """
    engine: Engine | None
    if rollout.engine == "server":
        assert model is not None and serving is not None
        engine = None if group.rank else served(model_path, rollout, max_length=max_length, model=model,
                                                serving=serving)
    elif rollout.engine == "vllm":
        engine = VllmEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                            kv_cache_mb=rollout.kv_cache_mb, dtype=rollout.dtype, model=model, guided=guided,
                            sleep=rollout.sleep)
    else:
        engine = TransformersEngine(model_path, max_length=max_length, max_num_seqs=rollout.max_num_seqs,
                                    dtype=rollout.dtype, model=model)
    if group.size == 1:
        assert engine is not None
        return engine
    return SharedEngine(engine, group, max_length=max_length, name=rollout.engine,
                        batch_size=rollout.max_num_seqs if rollout.engine == "transformers" else None)


def served(model_path: Path, rollout: Rollout, *, max_length: int, model: PreTrainedModel,
           serving: Serving) -> ServerEngine:
    """The engine of the servers that `rollout` names, or else of as many as it asks for, started now."""
    if rollout.urls:
        servers, stop = [Server(url, seconds=rollout.reply_seconds) for url in rollout.urls], lambda: None
    else:
        servers, stop = start_servers(model_path, rollout, max_length=max_length, log=serving.log)
    try:
        return ServerEngine(servers, weights=serving.weights, max_length=max_length, dtype=rollout.dtype, model=model,
                            ended=stop)
    except BaseException:
        for server in servers:
            server.close()
        stop()
        raise
