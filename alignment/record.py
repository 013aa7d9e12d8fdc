"""run.json: what a run was made from and what it made, so that it can be checked and repeated.

Holds an allow-list of facts. The environment is never dumped, and values of arguments that may be secrets are masked.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.config import RunConfig
from alignment.identity import ENGINES, NUMERICAL, digest
from alignment.pinning import CORES, PACKAGE_ROOT, exactness
from alignment.store import describe, write_json

RUN_FILE = "run.json"
FORMAT = 1
SECRET = re.compile(r"(token|secret|passw|api_?key|credential)", re.IGNORECASE)


def masked(argv: Sequence[str]) -> list[str]:
    """The command line with the values of secret-looking keys blanked."""
    return [f"{part.split('=')[0]}=***" if "=" in part and SECRET.search(part.split("=")[0]) else part for part in argv]


def machine() -> dict[str, Any]:
    """The processor, its instruction sets, memory and GPUs."""
    info = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)
    known = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
    cards = [_read(str(path)) for path in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    gpus = [re.search(r"Model:\s*(.+)", card) for card in cards]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"platform": platform.platform(), "processor": model[1] if model else platform.processor(),
            "cores": CORES,
            "memory_gib": round(memory / 2**30, 1),
            "isa": [flag for flag in known if flags and f" {flag} " in f" {flags[1]} "],
            "gpus": [gpu[1].strip() for gpu in gpus if gpu]}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def packages() -> dict[str, str]:
    """Installed versions of what a run leans on."""
    found = {"python": platform.python_version()}
    for name in ("finalign", *NUMERICAL, *ENGINES, "safetensors", "hydra-core", "omegaconf"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path = PACKAGE_ROOT) -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside a checkout."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    asked = [subprocess.run([git, "-C", str(root), *command], capture_output=True, text=True, check=False)
             for command in (("rev-parse", "--verify", "HEAD"), ("status", "--porcelain"))]
    if asked[0].returncode:
        return None
    return asked[0].stdout.strip() + ("+changes" if asked[1].stdout.strip() else "")


class RunRecord:
    """The manifest of one run, rewritten whole at every change."""

    def __init__(self, config: RunConfig, *, stage_seeds: Mapping[str, int], code: Mapping[str, str],
                 data_files: Mapping[str, str], base_model: dict[str, str] | None) -> None:
        self.path = config.run_dir / RUN_FILE
        self.content: dict[str, Any] = {
            "format": FORMAT, "recipe": config.recipe, "name": config.name, "scale": config.scale, "status": "running",
            "argv": masked(config.argv), "started": time.time(), "seconds": 0.0,
            "seeds": {"root": config.root.seed, "stages": dict(stage_seeds)},
            "exactness": exactness(config.root.threads, portable=config.root.portable),
            "code": dict(code), "commit": commit(),
            "packages": packages(), "machine": machine(),
            "data": {"config": config.data.source_config(), "files": dict(data_files)}, "base_model": base_model,
            "gates": [], "notes": [], "stages": {}, "files": {},
        }

    def stage(self, name: str, **facts: Any) -> None:
        self.content["stages"].setdefault(name, {}).update(facts)

    def write(self, *, status: str | None = None, files: Sequence[str] = ()) -> None:
        """Writes run.json; `files` of the run's folder are described in it."""
        if status is not None:
            self.content["status"] = status
        self.content["seconds"] = round(time.time() - self.content["started"], 3)
        for name in files:
            self.content["files"][name] = describe(self.path.parent / name)
        self.content.pop("digest", None)
        write_json(self.path, self.content | {"digest": digest(self.content)})
