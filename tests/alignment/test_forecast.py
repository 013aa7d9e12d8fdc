"""What a dry run says a run would do and take: counts of parameters, steps and tokens, memory and disk."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from alignment import costs, footprint, prepare
from alignment.config import load
from alignment.costs import Costs, amount, short
from alignment.footprint import Rows
from alignment.forecast import Forecast, Work, checkpoint_bytes, forecasts, longest_rows
from alignment.kinds import Dpo, Grpo, Ppo, Sft
from alignment.model_size import Size, from_config, read_size
from alignment.models import load_tokenizer, save_policy, set_special_tokens
from alignment.optim import split_parameters
from alignment.origin import EMBEDDED
from alignment.ppo_state import Critic
from data.schema import UserError

ROOT = Path(__file__).parents[2]
FINANCE = {"source": "finance", "path": None, "languages": ["en", "zh"]}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM)}


def make(family: str, *, tied: bool, width: int = 32, layers: int = 3, heads: int = 4, keys: int = 2,
         head_width: int = 16, inner: int = 48, vocabulary: int = 64) -> Any:
    config_class, model_class = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config_class(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=keys, head_dim=head_width, intermediate_size=inner, tie_word_embeddings=tied,
            max_position_embeddings=1024))


# Parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family: str, tied: bool, tmp_path: Path) -> None:
    model = make(family, tied=tied)
    model.save_pretrained(tmp_path)
    written, counted = read_size(tmp_path), from_config(model.config.to_dict())
    assert written is not None and counted is not None
    matrices = sum(parameter.numel() for parameter in split_parameters(model)[0])
    critic = sum(parameter.numel() for parameter in Critic(model.base_model, num_layers=2).trunk.parameters())
    for size in (written, counted):
        assert size.parameters == model.num_parameters()
        assert size.matrices == matrices
        assert size.cut(2).parameters == critic
        assert size.cut(None).parameters == model.base_model.num_parameters()
    assert dataclasses.replace(written, tensors={}) == dataclasses.replace(counted, tensors={})


def test_an_adapter_is_counted_as_peft_makes_it() -> None:
    from peft import LoraConfig, inject_adapter_in_model
    model = make("qwen2", tied=True)
    size = from_config(model.config.to_dict())
    inject_adapter_in_model(LoraConfig(r=4, target_modules=[f"{name}_proj" for name in (
        "q", "k", "v", "o", "gate", "up", "down")]), model)
    assert size is not None and size.adapter(4) == model.num_parameters(only_trainable=True)


def test_sharded_weights_are_all_counted(tmp_path: Path) -> None:
    model = make("llama", tied=False)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    size = read_size(tmp_path)
    assert size is not None and size.parameters == model.num_parameters()
    (tmp_path / "model-00001-of-00009.safetensors").unlink(missing_ok=True)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="the folder's index names it"):
        read_size(tmp_path)


@pytest.mark.parametrize(("content", "wanted"), [(b"version https://git-lfs.github.com/spec/v1", "not a safetensors"),
                                                 (b"", "not a safetensors"), (None, "cut short")])
def test_broken_weights_are_found(content: bytes | None, wanted: str, tmp_path: Path) -> None:
    make("llama", tied=True).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(UserError, match=wanted) as error:
        read_size(tmp_path)
    assert str(path) in str(error.value)


def test_a_config_in_other_words_has_no_size() -> None:
    assert from_config({"model_type": "gpt2", "n_embd": 8, "vocab_size": 9}) is None


# Work ------------------------------------------------------------------------------------------------------------


def forecast(*overrides: str, recipe: str = "ppo_fin", runs_dir: Path = Path("nowhere")) -> dict[str, Forecast]:
    config = load([f"recipe={recipe}", f"runs_dir={runs_dir}", "rollout=transformers", *overrides])
    prepared = prepare.prepare(config, code_of=lambda kind: ({}, frozenset()))
    base = prepared.base_model.path if prepared.base_model else None
    return forecasts([node.stage for node in prepared.nodes], base=base, source=config.data.source_config(),
                     rollout=prepared.rollout)


def test_steps_and_tokens_of_every_kind() -> None:
    found = {name: each.work for name, each in forecast(recipe="evidence").items()}
    assert (found["pretrain"].steps, found["pretrain"].trained) == (450, 450 * 4 * 256)
    assert (found["sft"].steps, found["sft"].trained) == (260, 260 * 4 * 256)
    assert (found["sample"].questions, found["sample"].rows, found["sample"].generated) == (2000, 8000, 8000 * 96)
    assert (found["judge"].questions, found["judge"].rows) == (2000, 8000)
    assert found["pairs"].rows == 8000 + 570  # at most one a completion, and the shipped ones
    assert (found["reward_model"].steps, found["reward_model"].trained) == (280, 280 * 16 * 2 * 256)
    assert (found["dpo"].steps, found["dpo"].trained) == (200, 200 * 16 * 2 * 256)
    assert found["rft"].text == "8,704 solutions, 240 dev questions"
    ppo = found["ppo"]  # two minibatches an iteration; the policy waits for two iterations
    assert ppo.steps == 34 * 2 + 32 * 2 + 32 * 12
    assert ppo.generated == (34 * 256 + 3 * 200) * 96  # dev answers before the first iteration too
    assert ppo.trained == (34 * 256 + 32 * 12 * 16) * 96
    evaluate = found["evaluate"]  # nine policies, greedy and two samples; eight for three times as many pairs
    assert evaluate.rows == 9 * 1000 * 3 + 8 * 3 * 2000
    assert evaluate.generated == evaluate.rows * 96


def test_what_a_roll_back_may_lead_to_is_kept_and_counted() -> None:
    plain, rolling, often = (checkpoint_bytes(Ppo(**changes), large()) for changes in (
        {}, {"alarms": {"kl": "rollback"}}, {"alarms": {"kl": "rollback"}, "save_every": 1}))
    assert plain is not None and rolling is not None and often is not None
    assert (rolling / plain, often / plain) == (pytest.approx(5 / 3), pytest.approx(8 / 3))


@pytest.mark.parametrize(("changes", "steps"), [
    ([], 3 * 4 + 2 * 4), (["critic_from=shared"], 3 * 4), (["advantages=group"], 3 * 4), (["num_epochs=2"], 2 * 20),
    (["imitation_steps=5"], 20 + 2 * 5), (["critic_warmup=9"], 3 * 4)])
def test_ppo_counts_the_steps_it_takes(changes: list[str], steps: int) -> None:
    """Three iterations of four minibatches, the first for the critic alone."""
    plain = ["imitation_steps=0", "group_baseline=false", "min_spread=0", "num_prompts=8"]
    assert forecast("scale=tiny", *(f"ppo.{change}" for change in {
        change.partition("=")[0]: change for change in plain + changes}.values()))["ppo"].work.steps == steps


def test_the_embedded_critic_is_forecast_as_the_model_it_is() -> None:
    critic, rule = (forecast(f"judge.judge={judge}")["judge"].memory for judge in ("critic", "rule"))
    assert critic is not None and rule is not None and 300 < critic - rule < 800


@pytest.mark.parametrize(("changes", "steps"), [
    ([], 28 * 2), (["num_epochs=3"], 28 * 6), (["minibatch_size=64"], 28 * 4)])
def test_grpo_counts_the_steps_trl_takes(changes: list[str], steps: int) -> None:
    found = forecast(*(f"grpo.{change}" for change in changes), recipe="grpo_fin")["grpo"].work
    assert found.steps == steps
    assert found.generated == (28 * 256 + 2 * 200) * 96
    assert found.trained == 28 * 256 * 96 * (3 if changes == ["num_epochs=3"] else 1)


def test_the_pairs_of_other_data_are_not_the_shipped_ones(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"What is {number} + 1?", "completion": f"#### {number + 1}"}) + "\n"
                            for number in range(40)))
    found = forecast("data=file", f"data.path={rows}")
    assert found["pairs"].work.rows == 2 * 2800  # of answers and of steps
    assert longest_rows({"source": "file", "path": str(rows), "languages": ["en"], "kinds": None, "seed": 0},
                        EMBEDDED) < longest_rows(FINANCE, EMBEDDED)


def test_a_chain_without_a_base_model_is_forecast_too() -> None:
    found = forecast(recipe="base_tiny")["pretrain"]
    assert found.artifact == pytest.approx(1.36 * 2 / 1.048576, rel=0.02)  # 1.36 million in float16
    assert found.memory is not None


def test_what_is_adopted_is_only_copied(tmp_path: Path) -> None:
    model = make("llama", tied=True)
    set_special_tokens(model, load_tokenizer(EMBEDDED))
    save_policy(model, load_tokenizer(EMBEDDED), tmp_path / "mine")
    found = forecast(f"sft.adopt={tmp_path / 'mine'}")
    assert (found["sft"].work.text, found["sft"].checkpoints) == ("copied", 0.0)
    assert found["ppo"].memory < found["pretrain"].memory  # type: ignore[operator]  # the adopted one is smaller


# Memory and disk -------------------------------------------------------------------------------------------------


def large() -> Size:
    size = from_config({"vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                        "num_key_value_heads": 8, "intermediate_size": 8192, "tie_word_embeddings": True})
    assert size is not None
    return size


ROWS = Rows(60, 40, {"engine": "transformers", "max_num_seqs": 256, "kv_cache_mb": 512, "dtype": "float32"})


def peak(config: Any, **more: Any) -> float:
    found = footprint.peak(config, large(), ROWS, **more)
    assert found is not None
    return found


def test_memory_follows_the_config() -> None:
    weights = 4 * large().parameters
    small = {"batch_size": 1, "max_length": 64}
    assert peak(Dpo(**small)) > 5 * weights  # policy, its gradients and AdamW's two numbers, reference
    assert peak(Dpo(**small, optimizer="muon")) < peak(Dpo(**small)) - 4 * 0.8 * large().parameters
    assert peak(Dpo(**small, lora_rank=8)) < 2.3 * weights
    assert peak(Sft()) - peak(Sft(micro_batch_size=4)) > 0.5 * (peak(Sft()) - peak(Sft(gradient_checkpointing=True)))
    assert peak(Sft(precision="bf16")) < peak(Sft())
    reward_model = peak(Ppo(), reward_model=large()) - peak(Ppo())
    assert reward_model == pytest.approx(weights, rel=0.01)
    assert peak(Ppo()) - peak(Ppo(advantages="group")) == pytest.approx(12 * large().parameters, rel=0.01)
    assert peak(Grpo(micro_batch_size=8)) < peak(Grpo())  # fewer activations; else what PPO without a critic holds
    assert peak(Grpo(micro_batch_size=8), reward_model=large()) == pytest.approx(
        peak(Ppo(advantages="group"), reward_model=large()), rel=0.1)
    vllm = dataclasses.replace(ROWS, rollout={**ROWS.rollout, "engine": "vllm"})
    assert footprint.peak(Ppo(), large(), vllm) >= peak(Ppo())  # type: ignore[operator]
    assert footprint.peak(Ppo(), None, ROWS) is None


def test_checkpoints_count_what_is_trained_and_how_many_there_are() -> None:
    size = large()
    one = checkpoint_bytes(Sft(max_steps=10), size)
    assert one == 16 * size.parameters  # weights, the best weights, two numbers each
    assert checkpoint_bytes(Sft(max_steps=1000, save_every=100), size) == 3 * one  # type: ignore[operator]
    assert checkpoint_bytes(Dpo(max_steps=10, lora_rank=4), size) == 12 * size.adapter(4)


def test_the_disk_is_asked_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stages = [Forecast("a", Work("x"), 1.0, 30.0, 20.0), Forecast("b", Work("y"), None, None, None),
              Forecast("c", Work("z"), 2.0, 5.0, 40.0)]
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 80 * 2**20}))
    one, two = (Costs(stages, tmp_path / "not" / "yet", workers) for workers in (1, 2))
    assert (one.kept, one.passing, one.fits) == (35.0, 40.0, True)
    assert (two.kept, two.passing, two.fits) == (35.0, 60.0, False)
    assert "WARNING" not in one.table({})[-1] and "WARNING" in two.table({})[-1]
    assert any("unknown" in line for line in one.table({}))


def test_numbers_are_read_at_a_glance() -> None:
    assert [short(count) for count in (0, 9999, 26624, 1_310_000, 2_400_000_000)] == [
        "0", "9999", "27k", "1.3M", "2.4B"]
    assert [amount(mib) for mib in (None, 0.44, 61.2, 5000.0, 20480.0)] == [
        "unknown", "0.4 MiB", "61 MiB", "5,000 MiB", "20.0 GiB"]


def test_a_dry_run_loads_no_heavy_library_and_writes_nothing(tmp_path: Path) -> None:
    code = ("import sys, alignment.run; "
            f"alignment.run.main(['recipe=ppo_fin', 'dry_run=true', 'runs_dir={tmp_path}']); "
            "print({'torch', 'transformers', 'trl', 'vllm', 'datasets'} & set(sys.modules))")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.splitlines()[-1] == "set()"
    assert "pretrain" in said and "are free" in said
    assert not list(tmp_path.iterdir())


# Against real stages ---------------------------------------------------------------------------------------------

RECIPE = """# @package _global_
defaults: [/kind@sft: sft, /kind@sample: sample, /kind@judge: judge, /kind@pairs: pairs,
           /kind@reward_model: reward_model, /kind@ppo: ppo, /kind@dpo: dpo, _self_]
threads: 1
sft: {inputs: {model: base}, num_examples: 96, eval_every: 2, dev_examples: 8}
sample: {inputs: {policy: sft}, num_questions: 32, num_samples: 2, max_new_tokens: 64}
judge: {inputs: {completions: sample}}
pairs: {inputs: {completions: sample, verdicts: judge}, gold_fallback: always, human: null}
reward_model: {inputs: {model: sft, pairs: pairs}}
ppo: {inputs: {policy: sft, reward_model: reward_model}, num_iterations: 2, num_prompts: 8, num_samples: 2,
      question_pool: 16, minibatch_size: 16, critic_warmup: 0, dev_examples: 8, max_new_tokens: 64}
dpo: {inputs: {policy: sft, pairs: pairs}}
"""
MODELS: dict[str, tuple[dict[str, Any] | None, int, str]] = {  # its shape, the batch, the optimizer
    "1.4M": (None, 16, "muon"),
    "10M": ({"family": "llama", "tied": False, "width": 320, "layers": 6, "heads": 10, "keys": 5, "head_width": 32,
             "inner": 896, "vocabulary": 4096}, 8, "muon"),
    "20M": ({"family": "qwen3", "tied": True, "width": 512, "layers": 4, "heads": 8, "keys": 2, "head_width": 64,
             "inner": 1536, "vocabulary": 16000}, 4, "adamw"),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MODELS)
def test_memory_is_forecast_within_a_quarter(name: str, tmp_path: Path) -> None:
    shape, batch, optimizer = MODELS[name]
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "cost.yaml").write_text(RECIPE)
    folder = EMBEDDED
    if shape is not None:
        folder, tokenizer = tmp_path / "model", load_tokenizer(EMBEDDED)
        model = make(**shape)
        set_special_tokens(model, tokenizer)
        save_policy(model, tokenizer, folder)
    arguments = ["recipe=cost", f"model.path={folder}", f"runs_dir={tmp_path / 'runs'}", "rollout=transformers",
                 *(f"{stage}.optimizer={optimizer}" for stage in ("sft", "reward_model", "ppo", "dpo")),
                 *(f"{stage}.{setting}" for stage, steps in (("sft", 2), ("reward_model", 6), ("dpo", 6))
                   for setting in (f"batch_size={batch}", f"max_steps={steps}"))]  # until a batch is of long rows
    prepared = prepare.prepare(load(arguments, config_dirs=[str(tmp_path)]))
    expected = {stage.stage: stage.memory for stage in prepare.costs(prepared).stages}
    subprocess.run([sys.executable, "-m", "alignment.run", "--config-dir", str(tmp_path), *arguments], check=True,
                   cwd=ROOT, timeout=3500)
    record = json.loads((prepared.config.run_dir / "run.json").read_text())
    off = {}
    for stage in ("sft", "judge", "pairs", "reward_model", "ppo", "dpo"):
        measured = record["stages"][stage]["peak_mib"]
        off[stage] = expected[stage] / measured - 1  # type: ignore[operator]
        print(f"{name} {stage}: {measured:.0f} MiB, forecast {expected[stage]:.0f} ({off[stage]:+.0%})")
    assert all(abs(error) <= 0.25 for error in off.values()), off
