"""What came out is used: evaluated alone, and served by the very command that a run prints at its end."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alignment import chat, conversation, display
from alignment.conversation import Speaker
from alignment.models import load_tokenizer, new_model, save_policy
from alignment.origin import EMBEDDED

ROOT = Path(__file__).parents[1]
START_SECONDS = 800  # the server imports and builds for half a minute; a busy machine takes many times that
pytestmark = pytest.mark.slow
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the embedded one's tokenizer, with what a stage leaves beside it."""
    folder = tmp_path_factory.mktemp("stages") / "ppo"
    tokenizer = load_tokenizer(EMBEDDED)
    save_policy(new_model(tokenizer, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64, seed=0,
                          architecture="qwen3"), tokenizer, folder)  # heads 32 wide, as vLLM needs
    (folder / "critic").mkdir()
    for name in ("manifest.json", "metrics.jsonl", "critic/critic.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_any_model_is_evaluated_alone(model: Path, tmp_path: Path) -> None:
    asked = ["recipe=evaluate", "scale=tiny", f"model.path={model}", f"runs_dir={tmp_path}", "name=mine"]
    done = subprocess.run([sys.executable, "-m", "alignment.run", *asked], capture_output=True, text=True, cwd=ROOT,
                          timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "evaluate" / "mine"
    assert "held-out metrics" in done.stdout and f"report: {folder / 'report.html'}" in done.stdout
    assert "talk to it" not in done.stdout  # nothing was made
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Held-out results" in page and "Samples side by side" in page and "Paired differences" not in page
    assert list(json.loads((folder / "stages/evaluate/evaluation.json").read_text())["policies"]) == ["model"]


@contextmanager
def served(command: list[str], log: Path) -> Iterator[str]:
    """The address of a server started by this command, once it is up; all it started is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT,
                                   env=plain, start_new_session=True)  # as in a user's shell
    try:
        until = time.monotonic() + START_SECONDS
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ask(address: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@needs_vllm
def test_the_command_that_a_run_prints_serves_the_model(model: Path, tmp_path: Path) -> None:
    serve = next(line for line in display.how_to_use(model) if line.startswith("serve it: "))
    python, *command = shlex.split(serve.partition(": ")[2])
    assert python == "python"
    turn = {"role": "user", "content": "1 + 1 = ?"}
    with served([sys.executable, *command], tmp_path / "log") as address:
        said = ask(address, model=model.name, max_tokens=8, temperature=0, messages=[turn])
    asked = chat.parser().parse_args([str(model), "--max-new-tokens=8"])
    wanted = conversation.reply(Speaker.load(str(model)), [turn], asked, io.StringIO())
    assert said["choices"][0]["message"]["content"] == wanted and said["usage"]["completion_tokens"] > 0
