"""`python -m alignment.rollout.serve OPTIONS`: vLLM's API server, which ends when its stdin does.

Whoever starts it holds the other end, so that it outlives nobody, be they killed. vLLM's own command `vllm serve` does
not start from the CPU wheel; the module it leads to does.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import threading

API_SERVER = "vllm.entrypoints.openai.api_server"


def end_with_stdin() -> None:
    """Ends this process group once nobody holds the other end."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    runpy.run_module(API_SERVER, run_name="__main__", alter_sys=True)
