"""Exports of models: whole folders that need neither PEFT nor finalign, or an error and nothing at all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from alignment import cli, export
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.origin import EMBEDDED

PLAIN = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
         "chat_template.jinja", "README.md"}
IDS = torch.arange(5, 45).reshape(2, 20)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's artifact with all that the store and the trainers leave beside it."""
    folder = tmp_path_factory.mktemp("store") / "ppo"
    tokenizer = load_tokenizer(EMBEDDED)
    model = new_model(tokenizer, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64, seed=0)
    save_policy(model, tokenizer, folder, name="ppo")
    for name in ("manifest.json", "trainer_state.json", "metrics.jsonl", "optimizer.pt", "training_args.bin",
                 ".hidden.json", "critic/critic.safetensors", "adapter/adapter_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def model(sealed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return shutil.copytree(sealed, tmp_path / "given")


def exported(*arguments: object) -> int:
    return export.main([str(argument) for argument in arguments])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """The model as anybody loads it who has no PEFT."""
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails
    found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return found


def test_what_is_not_the_format_s_stays_behind(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert cli.main(["export", str(sealed), str(out)]) == 0
    assert f"talk to it: python -m alignment.chat {out}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == PLAIN
    assert all((out / name).read_bytes() == (sealed / name).read_bytes() for name in PLAIN)
    assert AutoTokenizer.from_pretrained(out).chat_template == load_tokenizer(sealed).chat_template
    assert torch.equal(logits(loaded(out, monkeypatch)), logits(load_policy(sealed)))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]


@pytest.mark.parametrize("dtype", export.DTYPES)
def test_weights_are_cast(sealed: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exported(sealed, tmp_path / "out", "--dtype", dtype) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (sealed, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name].to(getattr(torch, dtype))) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert f"weights in {dtype}." in (tmp_path / "out" / "README.md").read_text()
    assert loaded(tmp_path / "out", monkeypatch).dtype == getattr(torch, dtype)
    assert load_policy(sealed).dtype == torch.float32


def test_shards_are_cast_and_counted(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    load_policy(sealed).save_pretrained(given, max_shard_size="100KB")
    load_tokenizer(sealed).save_pretrained(given)
    save_file({"stray": torch.zeros(1)}, given / "optimizer.safetensors")
    assert exported(given, out, "--dtype", "bfloat16") == 0
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 1 and {path.name for path in shards} == {path.name for path in given.glob("model-*")}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        2 * tensor.numel() for path in shards for tensor in load_file(path).values())
    assert torch.allclose(logits(loaded(out, monkeypatch)), logits(load_policy(sealed)), atol=0.05)


def adapter_of(base: Path, folder: Path, named: Path | str | None = None) -> torch.Tensor:
    """Writes a PEFT adapter that changes something; the adapted model's logits."""
    adapted = get_peft_model(load_policy(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(named or base)}))
    (folder / "README.md").write_text("the card of the adapter")
    return logits(adapted)


def test_an_adapter_is_merged_into_its_base(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, out = adapter_of(sealed, tmp_path / "adapter"), tmp_path / "out"
    assert exported(tmp_path / "adapter", out) == 0
    assert {path.name for path in out.iterdir()} == PLAIN
    assert (out / "README.md").read_text() == "the card of the adapter"
    merged = logits(loaded(out, monkeypatch))
    assert (merged - adapted).abs().max() < 1e-4 < (merged - logits(load_policy(sealed))).abs().max()
    assert AutoTokenizer.from_pretrained(out).chat_template == load_tokenizer(sealed).chat_template


def test_a_merged_adapter_is_saved_as_asked(sealed: Path, tmp_path: Path) -> None:
    adapter_of(sealed, tmp_path / "adapter")
    assert exported(tmp_path / "adapter", tmp_path / "out", "--dtype=bfloat16") == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def sharded(model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / "weights.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def huge(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] * 1e6}, model / "model.safetensors")


def adapter(base: Callable[[Path], str | None], spoil: Callable[[Path], object] = lambda folder: None) -> (
        Callable[[Path], object]):
    """Puts an adapter in the model's place; `base` names the folder its config says."""
    def made(model: Path) -> None:
        real = model.rename(model.with_name("base"))
        adapter_of(real, model)
        edit(model / "adapter_config.json", base_model_name_or_path=base(real))
        spoil(model)
    return made


def wider(base: Path) -> str:
    """A base of another width."""
    tokenizer = load_tokenizer(base)
    model = new_model(tokenizer, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=32, seed=0)
    save_policy(model, tokenizer, base.with_name("other"))
    return str(base.with_name("other"))


def renamed(folder: Path) -> None:
    """An adapter whose weights nobody asks for."""
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name.replace("q_proj", "z_proj"): tensor for name, tensor in tensors.items()},
              folder / "adapter_model.safetensors")


BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "nothing there": (shutil.rmtree, [], "there is no such folder"),
    "no model": (lambda model: (model / "config.json").unlink(), [], "no config.json"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), [], "no *.safetensors weights"),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), [], "no tokenizer.json"),
    "weights by another name": (lambda model: (model / "model.safetensors").rename(model / "x.safetensors"), [],
                                "neither model.safetensors nor"),
    "a shard that is missing": (lambda model: sharded(model, "none.safetensors"), [], "names none.safetensors"),
    "a shard from elsewhere": (lambda model: sharded(model, "../given/weights.safetensors"), [], "not in the folder"),
    "an index that is no JSON": (lambda model: [sharded(model, "a"), (model / export.INDEX).write_text("{")], [],
                                 "is not JSON"),
    "weights that are no safetensors": (lambda model: (model / "model.safetensors").write_text("x"),
                                        ["--dtype=bfloat16"], "cannot be read as safetensors"),
    "weights too large": (huge, ["--dtype=float16"], "too large for float16"),
    "quantized weights": (lambda model: edit(model / "config.json", quantization_config={}), ["--dtype=bfloat16"],
                          "leave --dtype out"),
    "a format that does not exist": (lambda model: None, ["--dtype=int8"], "invalid choice"),
    "a reward model": (lambda model: (model / "reward.json").write_text("{}"), [], "is a reward model"),
    "a process reward model": (lambda model: (model / "process.json").write_text("{}"), [],
                               "is a process reward model"),
    "an adapter of nothing": (adapter(lambda base: None), [], "base_model_name_or_path is None"),
    "an adapter of what is gone": (adapter(lambda base: "/none"), [], "not a Hugging Face model folder"),
    "a pickled adapter": (adapter(str, lambda folder: (folder / "adapter_model.safetensors").rename(
        folder / "adapter_model.bin")), [], "pickle files can run code"),
    "an adapter of another model": (adapter(wider), [], "cannot be merged into"),
    "an adapter that does not arrive": (adapter(str, renamed), [], "Found missing adapter keys"),
    "a broken adapter config": (adapter(str, lambda folder: (folder / "adapter_config.json").write_text("[]")), [],
                                "must hold an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, options, wanted = BAD[case]
    spoil(model)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert exported(model, tmp_path / "out", *options) == 2
    said = capsys.readouterr()
    assert said.out == "" and wanted in said.err and "Traceback" not in said.err
    assert "usage" in said.err or said.err.count("\n") == 1, said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_there_is_never_overwritten(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir(), empty.mkdir()
    (full / "mine").write_text("mine"), file.write_text("mine")
    for out, wanted in {full: "exists already", file: "exists already", model: "exists already",
                        model / "inside": "lies in"}.items():
        assert exported(model, out) == 2
        assert wanted in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["mine"] and file.read_text() == "mine"
    assert exported(model, empty) == 0 and {path.name for path in empty.iterdir()} == PLAIN


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)])
def test_nothing_half_written_stays(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException,
                                    code: int, capsys: pytest.CaptureFixture[str]) -> None:
    copyfile, copies = shutil.copyfile, []

    def full(source: Path, target: Path) -> None:
        copies.append(target)
        copyfile(source, target)
        if len(copies) == 3:
            raise error

    monkeypatch.setattr(shutil, "copyfile", full)
    before = sorted(tmp_path.rglob("*"))
    assert exported(model, tmp_path / "out") == code
    assert copies[0].exists() is False and sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().err.count("\n") == 1
