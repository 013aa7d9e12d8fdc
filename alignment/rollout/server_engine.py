"""vLLM behind URLs: one server or several side by side, prompts dealt out to them, weights pushed through files.

The servers are asked in vLLM's own dialect of the OpenAI API, token ids in and out, and told through its development
routes (VLLM_SERVER_DEV_MODE=1) to read weights again; a push that did not arrive is an error. They are started by
alignment/rollout/servers.py or by somebody else, who is told of every setting that does not fit. Nothing but the
configured addresses is ever asked, and no redirect is followed.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from alignment.adapters import merged
from alignment.rollout.engine import Generation, PushError, Sampling
from alignment.rollout.probe import Read, check_probe, logprobs, probe_length, probe_prompts
from alignment.rollout.requests import check_requests, stop_token_ids
from data.schema import UserError

AT_ONCE = 256  # requests under way, to all servers together
WARMTH, WARM_TOLERANCE = 0.5, 0.02  # the temperature at which logprobs are tried, and how far they may be off
SHOWN = 300  # characters of a server's words that an error repeats
START = ("VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model MODEL --dtype float32 "
         "--logprobs-mode processed_logprobs --no-enable-chunked-prefill --max-num-batched-tokens 8192")


@dataclasses.dataclass(frozen=True)
class Answer:
    """A server's reply: its status, and its JSON or, where it is none, its text."""

    status: int
    value: Any


class Server:
    """One vLLM server: asked by HTTP, with an error that says which and what to do where it does not answer."""

    def __init__(self, url: str, *, seconds: float, state: Callable[[], str] | None = None) -> None:
        """`seconds`: how long a reply may take. `state`: what has become of a server that the stage has started."""
        import httpx  # here, so that stages that ask no server do without

        self.url, self.seconds, self.state = url.rstrip("/").removesuffix("/v1"), seconds, state
        self.key = "rollout.urls" if state is None else "rollout.engine=server"  # to be named where it is at fault
        self._broken = (httpx.TransportError, httpx.DecodingError)
        self._client = httpx.Client(base_url=self.url, timeout=httpx.Timeout(seconds, connect=min(seconds, 20.0)),
                                    follow_redirects=False, trust_env=False,
                                    limits=httpx.Limits(max_connections=AT_ONCE))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """UserError where the server cannot be reached or does not answer in time."""
        try:
            reply = self._client.request(method, path, json=body)
        except self._broken as error:
            raise UserError(self._lost(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
                            ) from error
        try:
            return Answer(reply.status_code, json.loads(reply.text) if reply.text else None)
        except (ValueError, RecursionError):
            return Answer(reply.status_code, reply.text)

    def healthy(self) -> bool:
        """Whether it says that it can be asked; False, too, where nothing listens yet."""
        try:
            return bool(self._client.get("/health").status_code == 200)
        except self._broken:
            return False

    def wanted(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a reply with status 200. UserError for any other."""
        answer = self.ask(method, path, body)
        if answer.status != 200:
            raise UserError(f"{self.key}: {self.url}{path} answers with status {answer.status}: "
                            f"{str(answer.value)[:SHOWN]}")
        return answer.value

    def _lost(self, why: str) -> str:
        if self.state is not None and (state := self.state()):
            return f"{self.key}: the server at {self.url} {state}"
        if "Timeout" in why:
            return (f"rollout.reply_seconds={self.seconds:g}: {self.url} did not answer in that time ({why}); look at "
                    "the server, or give it longer")
        return (f"{self.key}: {self.url} cannot be reached ({why}); start a server there ({START}), or use "
                "rollout=vllm, which needs none")

    def model(self) -> dict[str, Any]:
        """What it says of its model, the first where it serves several: `id`, `max_model_len`."""
        try:
            found: dict[str, Any] = self.wanted("GET", "/v1/models")["data"][0]
            return {"id": str(found["id"]), "max_model_len": int(found["max_model_len"])}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{self.key}: {self.url}/v1/models names no model with its `max_model_len`, as vLLM "
                            f"does ({type(error).__name__}: {error})") from error

    def read_weights(self, folder: Path) -> None:
        """Has it read the weights anew, and forget what it has computed with those before. PushError where not."""
        answer = self.ask("POST", "/collective_rpc", {"method": "reload_weights",
                                                      "kwargs": {"weights_path": str(folder)}})
        if answer.status == 404:
            raise UserError(f"{self.key}: {self.url} has no route to push weights by; start it with "
                            f"VLLM_SERVER_DEV_MODE=1, on an address that only you reach ({START})")
        if answer.status != 200:
            raise PushError(f"{self.url} did not read the weights in {folder} (status {answer.status}: "
                            f"{str(answer.value)[:SHOWN]}); it must see that folder: put runs_dir on a disk that all "
                            "machines share")
        dropped = self.ask("POST", "/reset_prefix_cache")
        if dropped.status != 200 or not (isinstance(dropped.value, dict) and dropped.value.get("success")):
            raise PushError(f"{self.url} could not drop its cached prefixes: requests were still running")

    def close(self) -> None:
        self._client.close()


class ServerEngine:
    """vLLM servers holding one set of weights; `close` ends those that were started for it."""

    name = "server"

    def __init__(self, servers: Sequence[Server], *, weights: Path, max_length: int, dtype: str,
                 model: PreTrainedModel, ended: Callable[[], None] = lambda: None) -> None:
        """`weights`: a folder that the servers can read; what is pushed lies in it until it is read. `ended`: what is
        to be done last."""
        self.servers, self.weights, self.max_length, self._ended = servers, weights, max_length, ended
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
        self._models: list[str] = []
        for server in servers:
            found = server.model()
            if found["max_model_len"] < max_length:
                raise UserError(f"{server.key}: {server.url} takes {found['max_model_len']} tokens, prompts and "
                                f"completions here are up to {max_length}; start it with --max-model-len {max_length}")
            self._models.append(found["id"])
        self.push(model)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        check_requests(prompts, seeds, self.max_length)
        if sampling.schema is not None:
            raise UserError("rollout.engine=server: holds no text to a JSON schema; use rollout=vllm")
        among = {"allowed_token_ids": list(sampling.allowed)} if sampling.allowed else {}
        bodies = [{"prompt": list(prompt), "seed": seed, "stop_token_ids": self.stop_ids, "top_p": sampling.top_p,
                   "max_tokens": min(sampling.max_new_tokens, self.max_length - len(prompt)),
                   "temperature": sampling.temperature, **among} for prompt, seed in zip(prompts, seeds, strict=True)]
        return [generation(choice) for choice in self._complete(bodies)]

    def _complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The servers' completions, in order; request n goes to server n modulo their number."""
        def one(number: int) -> dict[str, Any]:
            place = number % len(self.servers)
            return completed(self.servers[place], {"model": self._models[place], **PLAIN, **bodies[number]})

        waiting = [self._pool.submit(one, number) for number in range(len(bodies))]
        try:
            return [future.result() for future in waiting]
        finally:
            for future in waiting:
                future.cancel()

    def push(self, model: PreTrainedModel) -> None:
        """Writes the weights to a file, an adapter merged, has every server read it, compares logprobs with `model`'s.

        PushError where they did not arrive.
        """
        self.stop_ids = stop_token_ids(model.generation_config, model.config)
        self.weights.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="push-", dir=self.weights)).resolve()
        try:
            save_file(checkpoint(model, self.dtype), folder / "model.safetensors", metadata={"format": "pt"})
            list(self._pool.map(lambda server: server.read_weights(folder), self.servers))
        finally:
            shutil.rmtree(folder)
        for place in range(len(self.servers)):
            self._verify(model, place)

    def _verify(self, model: PreTrainedModel, place: int) -> None:
        """What one server makes of a probe, against the model's forward pass; also at a temperature that is not 1."""
        server, new = self.servers[place], probe_length(self.max_length)
        way_out = (f"Use rollout=vllm, and report the model type {model.config.model_type!r}; of a server that others "
                   "use, too, use one of your own")

        def ask(**settings: Any) -> list[dict[str, Any]]:
            bodies = [{"model": self._models[place], **PLAIN, "prompt": prompt, "seed": 0, "max_tokens": new,
                       "ignore_eos": True, **settings} for prompt in probe_prompts(model)]
            return list(self._pool.map(lambda body: completed(server, body), bodies))

        read = [Read(choice["token_ids"], [*prompt_logprobs(choice, prompt), *choice["logprobs"]["token_logprobs"]])
                for choice, prompt in zip(ask(temperature=0.0, prompt_logprobs=0),
                                          probe_prompts(model), strict=True)]
        check_probe(model, read, dtype=self.dtype, engine=f"the server at {server.url}", way_out=way_out)
        self._verify_temperature(model, ask(temperature=WARMTH), server)

    def _verify_temperature(self, model: PreTrainedModel, warm: Sequence[dict[str, Any]], server: Server) -> None:
        """Log-probabilities must be those of the distribution that tokens are drawn from."""
        sequences = torch.tensor([[*prompt, *choice["token_ids"]] for prompt, choice in
                                  zip(probe_prompts(model), warm, strict=True)])
        said = torch.tensor([choice["logprobs"]["token_logprobs"] for choice in warm])
        plain = logprobs(model, sequences)[:, -said.shape[1]:]
        warmed = logprobs(model, sequences, temperature=WARMTH)[:, -said.shape[1]:]
        apart = (plain - warmed).abs().mean()
        if apart > WARM_TOLERANCE and (said - plain).abs().mean() < (said - warmed).abs().mean():
            raise UserError(f"{server.key}: {server.url} gives log-probabilities from before the temperature; start it "
                            "with --logprobs-mode processed_logprobs")

    def close(self) -> None:
        self._pool.shutdown()
        for server in self.servers:
            server.close()
        self._ended()


PLAIN = {"n": 1, "logprobs": 0, "return_token_ids": True, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
         "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "add_special_tokens": False,
         "skip_special_tokens": False}  # said each time, as a server may take its defaults from the model's folder


def completed(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """A server's completion of one prompt, its tokens and their log-probabilities in it."""
    value = server.wanted("POST", "/v1/completions", body)
    try:
        [choice] = value["choices"]
        tokens, found = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if len(tokens) != len(found) or choice["finish_reason"] not in ("stop", "length"):
            raise ValueError(f"{len(tokens)} tokens, {len(found)} logprobs, ended by {choice['finish_reason']}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{server.key}: {server.url} answers with what is no completion of vLLM's, token ids and "
                        f"log-probabilities in it ({type(error).__name__}: {error}): {str(value)[:SHOWN]}") from error
    return dict(choice)


def generation(choice: dict[str, Any]) -> Generation:
    return Generation([int(token) for token in choice["token_ids"]],
                      [float(logprob) for logprob in choice["logprobs"]["token_logprobs"]], choice["finish_reason"])


def prompt_logprobs(choice: dict[str, Any], prompt: Sequence[int]) -> list[float]:
    """Of each token of the prompt but the first."""
    return [float(step[str(token)]["logprob"])
            for step, token in zip(choice["prompt_logprobs"][1:], prompt[1:], strict=True)]


def checkpoint(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's weights as a folder of it would hold them, in the engine's number format; a tied output layer by its
    own name, too: without it vLLM on a CPU goes on with the old one."""
    state = dict(merged(model, model.named_parameters()))
    head = model.get_output_embeddings()
    name = next(f"{name}.weight" for name, module in model.named_modules() if module is head)
    if name not in state:
        state[name] = head.weight.detach().clone()
    return {name: value.to(dtype).cpu().contiguous() for name, value in state.items()}
