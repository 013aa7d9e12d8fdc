"""The environment a stage's process starts in: threads, instruction set, seeds of hashing, telemetry.

Numerical libraries read these variables once, when they load, so they are set by the controller before the child
starts and never inside it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
ISA = "avx2"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

SILENCED = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "warning",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
SPIN = "10000"  # turns an OpenMP thread waits awake; the default is 30 times that, which cripples a busy machine


def gpus(environ: Mapping[str, str] = os.environ) -> int:
    """NVIDIA GPUs that a stage would find. Asked of the system, since asking torch takes seconds."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "all")
    if visible in ("", "-1"):
        return 0
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return there if visible == "all" else min(there, len(visible.split(",")))


def cuda_visible(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a stage would find an NVIDIA GPU."""
    return gpus(environ) > 0


def workers(asked: int | None, *, threads: int) -> int:
    """Stages to run side by side: as asked, else two where cores allow, and one where they would share a GPU."""
    if asked is not None:
        return asked
    return 1 if cuda_visible() else max(1, min(2, CORES // threads))


def has_avx512(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether MKL, left alone, would use AVX-512 here."""
    return cpuinfo.exists() and " avx512f " in cpuinfo.read_text(encoding="utf-8", errors="replace")


def exactness(threads: int, *, portable: bool) -> dict[str, str | int]:
    """What a result's last bits depend on besides code, data and seed; part of every stage's identity."""
    return {"threads": threads, "isa": ISA, "mkl": "avx512" if has_avx512() and not portable else ISA,
            "processor": platform.machine(), "device": "cuda" if cuda_visible() else "cpu"}


def environment(*, threads: int, offline: bool, portable: bool,
                environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The child's whole environment: the caller's, with what pins results and silences telemetry laid over it.

    ATen and oneDNN are always held to AVX2; `portable` holds MKL to it too, which takes up to half the speed of a
    processor with AVX-512 and in return gives the last bits of one without. Telemetry settings the user made are kept
    (`WANDB_MODE=online` stays online); pinned numbers are not negotiable.
    """
    count = str(threads)
    pinned = {
        "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
        "VECLIB_MAXIMUM_THREADS": count, "NUMEXPR_NUM_THREADS": count,
        "ATEN_CPU_CAPABILITY": ISA, "ONEDNN_MAX_CPU_ISA": ISA.upper(),
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONSAFEPATH": "1",  # a `data/` in the working directory must not shadow ours
        "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }
    if offline:
        pinned |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if portable:
        pinned |= {"MKL_ENABLE_INSTRUCTIONS": ISA.upper(), "MKL_CBWR": f"{ISA.upper()},STRICT"}
    return SILENCED | {"GOMP_SPINCOUNT": SPIN} | dict(environ) | pinned
