"""A server that answers as vLLM's does, on a thread of the test: the plain engine behind the routes that are asked for,
and every way in which such a server can fall short."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from alignment.rollout import Sampling, TransformersEngine
from alignment.rollout.probe import logprobs


class FakeVllm(ThreadingHTTPServer):
    """Holds a model of its own. `faults`: what it does wrong, by name."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, model: PreTrainedModel, *faults: str, max_model_len: int = 160) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.engine = TransformersEngine(Path("unused"), max_length=max_model_len, model=model)
        self.faults, self.max_model_len, self.lock = faults, max_model_len, threading.Lock()
        self.asked: list[str] = []  # the paths, in order
        self.bodies: list[dict[str, Any]] = []  # of completions

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def load(self, folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        model = self.engine.model
        assert state.keys() == {*dict(model.named_parameters()), "lm_head.weight"}
        if "stale" not in self.faults:
            model.load_state_dict(state, strict=False)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, model, temperature = body["prompt"], self.engine.model, body["temperature"]
        stop_ids, self.engine.stop_ids = self.engine.stop_ids, [] if body.get("ignore_eos") else body["stop_token_ids"]
        sampling = Sampling(max_new_tokens=body["max_tokens"], temperature=temperature, top_p=body["top_p"])
        [made] = self.engine.generate([prompt], sampling, [body["seed"]])
        self.engine.stop_ids = stop_ids
        read = logprobs(model, torch.tensor([[*prompt, *made.token_ids]]))[0].tolist()
        choice = {"index": 0, "text": "", "finish_reason": made.finish_reason, "token_ids": made.token_ids,
                  "logprobs": {"token_logprobs": read[len(prompt) - 1:] if "raw" in self.faults else made.logprobs}}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None, *({str(token): {"logprob": found, "rank": 1}} for token, found in zip(
                prompt[1:], read, strict=False))]
        return {"choices": [choice]}


class Routes(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/health":
            self.answer(200, None)
        else:
            assert self.path == "/v1/models"
            known = {} if "no vllm" in self.server.faults else {"max_model_len": self.server.max_model_len}
            self.answer(200, {"data": [{"id": "policy", **known}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
        faults = self.server.faults
        self.server.asked.append(self.path)
        match self.path:
            case "/collective_rpc" if "no routes" in faults:
                self.answer(404, {"detail": "Not Found"})
            case "/collective_rpc" if "elsewhere" in faults:
                self.answer(500, {"error": "no such folder"})
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                self.server.load(Path(body["kwargs"]["weights_path"]))
                self.answer(200, {"results": [None]})
            case "/reset_prefix_cache":
                self.answer(200, {"success": "busy" not in faults})
            case "/v1/completions" if "hangs" in faults:
                time.sleep(2)
            case "/v1/completions" if "no tokens" in faults:
                self.answer(200, {"choices": [{"text": "four"}]})
            case "/v1/completions" if "sends on" in faults:
                self.answer(307, None)
            case "/v1/completions":
                with self.server.lock:
                    self.server.bodies.append(body)
                    value = self.server.complete(body)
                self.answer(200, value)

    def answer(self, status: int, value: Any) -> None:
        text = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        if status == 307:
            self.send_header("location", "http://127.0.0.1:9/v1/completions")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(model: PreTrainedModel, *faults: str, **settings: Any) -> Iterator[FakeVllm]:
    server = FakeVllm(model, *faults, **settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
