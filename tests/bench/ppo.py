"""PPO of this project, on both engines, beside TRL 1.12's, the last there was: one call, alternating, medians.

    OMP_NUM_THREADS=2 python -m tests.bench.ppo [--repeats 5] [--sizes 0.7M,104M] [--lengths fixed,ragged]
                                                [--contenders transformers,vllm,trl] [--precision fp32]
                                                [--out FILE.json] [--docs docs/benchmarks.md]

Each contender is a process with models of the same random weights, asked for one iteration at a time, in turns; the
first round is not counted. TRL gets an environment of its own (--trl-env, made where it is not there). The floor stands
beside them: what the operations on real tokens take at this machine's matmul rate (tests/bench/floor.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.floor import iteration, matmul_rate
from tests.bench.ppo_case import ANSWER, LIMIT, PROMPT, SIZES, Case, Size

ROOT = Path(__file__).parents[2]
TRL = "trl==1.12.0"


class Contender:
    """A process that does one iteration when it is asked to."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                                            text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT),
                                                                                  "TRL_EXPERIMENTAL_SILENCE": "1"})
        self.steps: list[dict[str, Any]] = []
        self.bare: list[dict[str, Any]] = []
        self._read()

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                found: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
                return found
        raise SystemExit(f"{self.name} ended; its last words, of {self.log}:\n{self.log.read_text()[-2000:]}")

    def median(self, name: str) -> float:
        return statistics.median(step[name] for step in self.steps)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def make_models(size: Size, folder: Path) -> None:
    """Policy, critic's trunk and reward model, each with random weights of its own."""
    for seed, name in enumerate(("policy", "value", "reward")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**size.config()))
        model.generation_config.eos_token_id = None
        model.save_pretrained(folder / name)


def make_trl(environment: Path) -> Path:
    """The Python of an environment with TRL 1.12.0 and, but for it, the versions that this project is locked to."""
    python, stamp = environment / "bin" / "python", environment / ".made"
    if not stamp.exists():
        locked = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
        uv = Path(sys.executable).with_name("uv")
        constraints = environment.with_suffix(".txt")
        constraints.parent.mkdir(parents=True, exist_ok=True)
        constraints.write_text("\n".join(line for line in locked if not line.startswith("trl==")))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--constraints", constraints, "--excludes",
                        ROOT / "requirements" / "cpu-excludes.txt",
                        *([] if os.environ.get("UV_FIND_LINKS") else ["--torch-backend=cpu"]), TRL], check=True)
        stamp.touch()
    return python


def command_of(name: str, case: Case, folder: Path, trl: Path) -> list[str]:
    if name == "trl":
        return [str(make_trl(trl)), "-W", "ignore", "-m", "tests.bench.ppo_trl", case.to_json(), str(folder)]
    return [sys.executable, "-W", "ignore", "-m", "tests.bench.ppo_ours", case.to_json(), str(folder), name]


@contextlib.contextmanager
def started(names: Sequence[str], case: Case, folder: Path, trl: Path) -> Iterator[list[Contender]]:
    contenders: list[Contender] = []
    try:
        for name in names:
            contenders.append(Contender(name, command_of(name, case, folder, trl), folder / f"{name}.log"))
        yield contenders
    finally:
        for contender in contenders:
            contender.end()


def measure(case: Case, names: Sequence[str], repeats: int, trl: Path) -> dict[str, Any]:
    """The medians of each contender on one case, over `repeats` rounds after the first."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_models(case.size, folder)
        with started(names, case, folder, trl) as contenders:
            for turn in range(repeats + 1):
                for contender in contenders if turn % 2 else contenders[::-1]:
                    step = contender.ask("step")
                    if turn:
                        contender.steps.append(step)
                    if contender.name == "vllm":
                        contender.bare.append(contender.ask("bare"))
            return {contender.name: summary(contender) for contender in contenders} | {"floor": floor(case, contenders)}


def summary(contender: Contender) -> dict[str, Any]:
    found = {name: contender.median(name) for name in contender.steps[0] if name != "tokens"}
    found["all_seconds"] = [step["seconds"] for step in contender.steps]
    if contender.bare:
        found["over_bare"] = statistics.median(each["engine"] / each["bare"] for each in contender.bare[1:])
    return found


def floor(case: Case, contenders: Sequence[Contender]) -> dict[str, float]:
    """Seconds that the operations on real tokens take; lengths are as they were on average."""
    tokens = statistics.fmean(step["tokens"] for contender in contenders for step in contender.steps
                              if case.ragged or contender.name != "trl")
    length = round(tokens / case.size.batch) if case.ragged else LIMIT
    rate = matmul_rate(case.precision)
    parts = iteration(case.size, [length] * case.size.batch)
    return {"seconds": sum(parts.values()) / rate, "operations": sum(parts.values()), "rate": rate, "length": length}


def rows(case: Case, found: dict[str, Any]) -> list[str]:
    """The table's lines of one case."""
    least = found["floor"]["seconds"]
    lines = []
    for name, each in found.items():
        if name == "floor":
            continue
        times = found["trl"]["seconds"] / each["seconds"] if "trl" in found else float("nan")
        spread = f"{min(each['all_seconds']):.3g} to {max(each['all_seconds']):.3g}"
        beside = []
        if "over_bare" in each:
            beside.append(f"engine {each['over_bare']:.3f} x `LLM.generate`")
        if "push" in each:
            beside.append(f"push {each['push'] / each['seconds']:.1%}")
        lines.append(f"| {case.size.name} | {'ragged' if case.ragged else 'fixed'} | {case.precision} | {name} | "
                     f"{each['seconds']:.3g} ({spread}) | {case.size.batch / each['seconds']:.3g} | {times:.2f} | "
                     f"{each['seconds'] / least:.2f} | {each['generate']:.3g} | {each['peak_mib']:.0f} | "
                     f"{', '.join(beside)} |")
    return lines


HEAD = ("| size | lengths | precision | trainer | seconds an iteration (least to most) | samples/s | times TRL | "
        "over the floor | of them generating | peak MiB | |\n|---|---|---|---|---|---|---|---|---|---|---|")


def machine() -> str:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor()) if Path("/proc/cpuinfo").exists() else ""
    return f"{cpu}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def write_docs(path: Path, table: str, *, mark: str = "ppo") -> None:
    """Puts a table between the marks of a page."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--lengths", default="fixed,ragged")
    parser.add_argument("--contenders", default="transformers,vllm,trl")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--trl-env", type=Path, default=ROOT / ".venv" / "trl-1.12")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", type=Path)
    asked = parser.parse_args(argv)
    print(machine(), HEAD, sep="\n", flush=True)
    results: list[dict[str, Any]] = []
    lines: list[str] = []
    for size in asked.sizes.split(","):
        for lengths in asked.lengths.split(","):
            case = Case(SIZES[size], lengths == "ragged", asked.precision)
            found = measure(case, asked.contenders.split(","), asked.repeats, asked.trl_env)
            results.append({"case": dataclasses.asdict(case), "prompt": PROMPT, "limit": LIMIT, **found})
            some = rows(case, found)
            lines += some
            print(*some, sep="\n", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1), encoding="utf-8")
    if asked.docs:
        about = (f"{machine()}; medians of {asked.repeats} iterations, {PROMPT} tokens of prompt, at most {LIMIT} of "
                 "completion, one epoch.")
        write_docs(asked.docs, "\n".join([about, "", HEAD, *lines]))


if __name__ == "__main__":
    main(sys.argv[1:])
