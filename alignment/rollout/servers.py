"""vLLM servers that a stage starts for itself: each on a free port of this machine's loopback device, with its log in
the run's folder, watched while it loads, and gone when the stage is, however that ends.

Each runs as `python -m alignment.rollout.serve`, which needs no more of vLLM than that it is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.child import ended_by, free_port
from alignment.pinning import gpus
from alignment.rollout.server_engine import Server
from alignment.rollout.vllm_engine import chunkless
from data.schema import UserError

if TYPE_CHECKING:
    from alignment.stage import Rollout

LAST_LINES = 15  # of a server's log that an error repeats
POLL_SECONDS = 0.25
HEALTH_SECONDS = 5.0  # that one question after its health may take
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1",  # the routes by which weights are pushed
               "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as the run has, on no core in particular
               "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
SERVE = (sys.executable, "-m", "alignment.rollout.serve")


@dataclasses.dataclass(frozen=True)
class Started:
    """A server's process, where it listens and where it writes."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def state(self) -> str:
        """What has become of it; "" while it runs."""
        code = self.process.poll()
        return "" if code is None else f"{ended_by(code)}; the last lines of {self.log}:\n{last_lines(self.log)}"

    def stop(self) -> None:
        """Ends it and all it has started."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_servers(model_path: Path, rollout: Rollout, *, max_length: int, log: Path,
                  command: tuple[str, ...] = SERVE) -> tuple[list[Server], Callable[[], None]]:
    """`rollout.servers` of them with the model in `model_path`, ready to be asked, and what ends them; `log` is the
    first one's, the others' are named after it. UserError where one does not come up in `start_seconds`."""
    started: list[Started] = []

    def stop() -> None:
        for each in started:
            each.stop()

    try:
        for number in range(rollout.servers):
            started.append(start(model_path, rollout, number, max_length=max_length, command=command,
                                 log=log.with_name(f"{log.stem}-{number}{log.suffix}") if number else log))
        until = time.monotonic() + rollout.start_seconds
        for each in started:
            wait(each, until=until, rollout=rollout)
    except BaseException:
        stop()
        raise
    return [Server(each.url, seconds=rollout.reply_seconds, state=each.state) for each in started], stop


def start(model_path: Path, rollout: Rollout, number: int, *, max_length: int, log: Path,
          command: tuple[str, ...]) -> Started:
    """Server `number`, which is not to be asked yet."""
    log.parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *arguments(model_path, rollout, port=port, max_length=max_length)],
                                   stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                                   env=os.environ | ENVIRONMENT | devices(rollout, number), start_new_session=True)
    return Started(process, f"http://127.0.0.1:{port}", log)


def arguments(model_path: Path, rollout: Rollout, *, port: int, max_length: int) -> list[str]:
    """What vLLM's API server is told: as the engine in a stage's own process is."""
    return ["--model", str(model_path), "--host", "127.0.0.1", "--port", str(port), "--dtype", rollout.dtype,
            "--max-model-len", str(max_length), "--max-num-seqs", str(rollout.max_num_seqs), "--seed", "0",
            "--kv-cache-memory-bytes", str(rollout.kv_cache_mb << 20), "--enforce-eager",
            "--tensor-parallel-size", str(rollout.tensor_parallel), "--logprobs-mode", "processed_logprobs",
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", str(chunkless(max_length)),
            "--generation-config", "vllm", "--disable-log-stats", "--disable-uvicorn-access-log"]


def devices(rollout: Rollout, number: int) -> dict[str, str]:
    """The GPUs of server `number`: the last of those that this process sees, as it takes the first for itself. On a CPU
    nothing is compiled, which takes seconds and needs a C++ compiler.

    UserError where there are not so many.
    """
    found, each = gpus(), rollout.tensor_parallel
    if not found:
        return {"TORCH_COMPILE_DISABLE": "1"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else [
        str(place) for place in range(found)]
    if rollout.servers * each > found:
        raise UserError(f"rollout.servers={rollout.servers} with rollout.tensor_parallel={each}: need "
                        f"{rollout.servers * each} GPUs, and this machine has {found}; use fewer")
    last = len(visible) - number * each
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[last - each:last])}


def wait(started: Started, *, until: float, rollout: Rollout) -> None:
    """Until the server answers. UserError where it ends first or takes too long."""
    server = Server(started.url, seconds=HEALTH_SECONDS)
    try:
        while not server.healthy():
            if state := started.state():
                raise UserError(f"rollout.engine=server: vLLM's server {state}\nUse rollout=vllm or "
                                "rollout=transformers, or mend what it says")
            if time.monotonic() > until:
                raise UserError(f"rollout.start_seconds={rollout.start_seconds:g}: vLLM's server was not ready in that "
                                f"time; give it longer, or look at {started.log}:\n{last_lines(started.log)}")
            time.sleep(POLL_SECONDS)
    finally:
        server.close()


def last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
