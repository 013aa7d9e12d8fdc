"""Two processes for one stage: interrupted, one of them killed, their controller killed; run again, the bytes of a run
that was never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from alignment.origin import EMBEDDED
from tests.test_kill import STEPS, Chain, content, curve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SETTINGS = ["launch.processes=2", f"pretrain.adopt={EMBEDDED}", "until=sft", "sft.lora_rank=4",
            "sft.lora_dropout=0.1"]  # dropout: each process draws for itself


def ranks(controller: subprocess.Popen[str]) -> list[psutil.Process]:
    """The stage's processes, in the order of their numbers."""
    [starter] = [process for process in psutil.Process(controller.pid).children(recursive=True)
                 if "alignment.ranks" in process.cmdline() and process.children()]
    return sorted(starter.children(), key=lambda process: process.pid)


def under_way(chain: Chain) -> subprocess.Popen[str]:
    """A run whose stage has trained a step more than before."""
    before = set(chain.steps("sft"))
    controller = chain.start()
    while not set(chain.steps("sft")) - before:
        assert controller.poll() is None, controller.communicate()[0]
        time.sleep(0.02)
    return controller


def said(controller: subprocess.Popen[str]) -> str:
    return controller.communicate()[0]


def test_two_processes_go_on_exactly_where_they_were(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, chain = Chain(tmp_path / "whole", *SETTINGS), Chain(tmp_path / "cut", *SETTINGS)
    whole.finish()

    controller = under_way(chain)
    both = ranks(controller)
    assert len(both) == 2
    controller.send_signal(signal.SIGTERM)
    assert "the same command goes on from here" in said(controller) and controller.returncode == 130
    assert psutil.wait_procs(both, timeout=60)[1] == []
    last = chain.checkpoints("sft")[-1]
    assert last == f"checkpoint-{chain.steps('sft')[-1][0]}"
    checkpoint = chain.work("sft") / "scratch" / "checkpoints" / last
    assert {path.name for path in checkpoint.glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}

    controller = under_way(chain)
    ranks(controller)[1].kill()
    text = said(controller)
    assert controller.returncode == 1
    assert "stage sft failed: process 1 of 2 was ended by SIGKILL (out of memory?)" in text, text

    controller = under_way(chain)
    both = ranks(controller)
    os.kill(controller.pid, signal.SIGKILL)
    controller.communicate()
    assert psutil.wait_procs(both, timeout=60)[1] == []

    chain.finish()
    mine, other = (each.run_dir / "stages" / "sft" for each in (chain, whole))
    assert content(mine) == content(other)
    assert curve(mine) == curve(other)
    steps = [line["step"] for line in curve(mine) if "loss" in line]
    assert steps == sorted(set(steps)) and len(steps) == STEPS
    parts = json.loads((mine / "manifest.json").read_text())["parts"]
    assert (parts["exactness"]["processes"], parts["exactness"]["strategy"]) == (2, "ddp")
