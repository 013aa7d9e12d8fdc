"""The environment a stage starts in: pinned numbers, silenced telemetry, and an engine that suits the machine."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import pytest

from alignment import engine_choice
from alignment.engine_choice import RolloutConfig, rollout_engine
from alignment.pinning import environment, exactness, workers
from data.schema import UserError


def test_numbers_are_pinned_and_telemetry_is_off() -> None:
    found = environment(threads=3, offline=True, portable=False, environ={"OMP_NUM_THREADS": "8", "DO_NOT_TRACK": "0"})
    assert found["OMP_NUM_THREADS"] == "3"
    assert (found["ATEN_CPU_CAPABILITY"], found["ONEDNN_MAX_CPU_ISA"]) == ("avx2", "AVX2")
    assert found["HF_HUB_OFFLINE"] == "1" and found["DO_NOT_TRACK"] == "0"  # what the user says of telemetry stands
    assert "MKL_CBWR" not in found
    assert "HF_HUB_OFFLINE" not in environment(threads=1, offline=False, portable=False, environ={})


def test_portable_holds_mkl_too_and_is_part_of_what_makes_a_result_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment(threads=1, offline=True, portable=True, environ={})["MKL_CBWR"] == "AVX2,STRICT"
    monkeypatch.setattr("alignment.pinning.has_avx512", lambda: True)
    assert exactness(1, portable=True) != exactness(1, portable=False)
    monkeypatch.setattr("alignment.pinning.has_avx512", lambda: False)
    assert exactness(1, portable=True) == exactness(1, portable=False)


def test_two_stages_side_by_side_at_most_and_one_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.pinning.CORES", 8)
    monkeypatch.setattr("alignment.pinning.cuda_visible", lambda: False)
    assert workers(None, threads=1) == 2 and workers(None, threads=8) == 1 and workers(3, threads=1) == 3
    monkeypatch.setattr("alignment.pinning.cuda_visible", lambda: True)
    assert workers(None, threads=1) == 1


@pytest.mark.parametrize(("gpu", "wheel", "engine"), [(True, True, "vllm"), (False, True, "transformers"),
                                                      (True, False, "transformers")])
def test_auto_is_vllm_on_a_gpu_alone(gpu: bool, wheel: bool, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("vllm", None) if wheel else None
    monkeypatch.setattr(engine_choice, "cuda_visible", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert rollout_engine(RolloutConfig()) == engine


def test_vllm_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed here; use rollout=transformers"):
        rollout_engine(RolloutConfig(engine="vllm"))
