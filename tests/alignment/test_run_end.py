"""The last lines of a run: how to use the model that came out."""

from __future__ import annotations

import functools
import importlib.util
import json
import shlex
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from alignment import display, run
from alignment.controller import Controller
from tests.alignment.chains import COMMAND, Chain


def end(chain: Chain, capsys: pytest.CaptureFixture[str], *overrides: str, code: int = 0,
        **behaviour: str) -> list[str]:
    """The lines of a run of ppo_fin with fake stages that say how to use a model."""
    chain._monkeypatch.setattr(run, "Controller", functools.partial(Controller, command=COMMAND))
    chain._monkeypatch.setattr(run, "check_models", lambda prepared: None)  # the base model is a fake too
    chain._monkeypatch.setenv("FAKE_BEHAVIOUR", json.dumps(behaviour))
    assert run.execute(chain.config(*overrides)) == code
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("report: ") for line in lines)
    return [line for line in lines if line.startswith(("talk to it: ", "serve it: "))]


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: (
        ModuleSpec(name, None) if name == "vllm" else find(name)))
    return Chain(tmp_path, monkeypatch)


def test_the_last_model_is_the_one_to_use(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    folder = chain.root / "runs/ppo_fin/seed1/stages"
    for until, model in (("sample", "sft"), ("ppo", "ppo")):
        talk, serve = end(chain, capsys, f"until={until}")
        assert talk == f"talk to it: python -m alignment.chat {folder / model}"
        assert f" --model {folder / model} --served-model-name {model} " in serve
        assert (folder / model / "config.json").is_file()


def test_nothing_is_said_when_quiet_or_when_no_model_came_out(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(chain, capsys, "until=sft", "quiet=true") == []
    assert end(chain, capsys, "until=ppo", code=1, ppo="fail") == []
    assert end(chain, capsys, "+pretrain.require=['dev_accuracy >= 0.9']", "name=gate", code=1) == []


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_commands_name_the_folder_safely_and_the_weights_number_format(
        tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    place = model(tmp_path / "my; models" / "a $(b)", dtype="bfloat16")
    monkeypatch.setattr(display, "cuda_visible", lambda: False)
    talk, serve = (shlex.split(line.partition(": ")[2]) for line in display.how_to_use(place))
    assert talk == ["python", "-m", "alignment.chat", str(place)]
    assert serve[:9] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(place),
                         "--served-model-name", "a $(b)", "--dtype", "bfloat16"]
    assert serve[9:11] == ["--host", "127.0.0.1"] and "--kv-cache-memory-bytes" in serve
    monkeypatch.setattr(display, "cuda_visible", lambda: True)  # a GPU's memory is its own to fill
    assert "--kv-cache-memory-bytes" not in display.how_to_use(place)[1]
    assert "--dtype float32" in display.how_to_use(model(tmp_path / "old"))[1]


def test_serving_is_told_only_where_vllm_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [line.partition(": ")[0] for line in display.how_to_use(model(tmp_path / "model"))] == ["talk to it"]
