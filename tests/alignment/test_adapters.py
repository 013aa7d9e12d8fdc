"""LoRA adapters: a new one changes nothing, only it trains, merged equals adapted, and PEFT reads what was saved."""

from __future__ import annotations

import contextlib
import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import LlamaForCausalLM
from trl import DPOConfig

from alignment.adapters import adapted, adapter_off, merged_state, save_adapter, trainable
from alignment.kinds import Sft
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.optim import make_optimizer
from alignment.preference_trainers import DirectPreferenceTrainer, WithoutAdapter
from alignment.rollout import Sampling, TransformersEngine
from alignment.selection import BestWeights
from alignment.stages import dpo, reward_model
from alignment.trainers import training_arguments
from data.schema import UserError
from reward.model import RewardModel
from tests.alignment import test_dpo, test_reward_model_stage, test_trainers
from tests.alignment.test_dpo import base as base  # a fixture
from tests.alignment.test_trainers import tokenizer as tokenizer  # a fixture
from tests.alignment.tiny_model import tiny_model

IDS = torch.randint(6, 96, (4, 24), generator=torch.Generator().manual_seed(0))


def lora(model: Any, *, seed: int = 3, **config: Any) -> Any:
    return adapted(model, Sft(**({"lora_rank": 4} | config)), seed=seed)


@torch.no_grad()
def moved(model: Any) -> Any:
    """The model after some training, as it were."""
    generator = torch.Generator().manual_seed(7)
    for _, parameter in trainable(model):
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def test_a_new_adapter_changes_no_output_and_comes_from_its_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (lora(tiny_model(scale=4), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(one), logits(tiny_model(scale=4)))
    assert isinstance(one, LlamaForCausalLM)
    for (name, parameter), (_, twin), (_, stranger) in zip(*map(trainable, (one, same, other)), strict=True):
        assert torch.equal(parameter, twin)
        assert torch.equal(parameter, stranger) == (".lora_B." in name)  # B is 0
    plain = tiny_model()
    assert lora(plain, lora_rank=0) is plain and all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_merged_equals_adapted_and_the_model_stays_adapted(tied: bool) -> None:
    model = moved(lora(tiny_model(tied=tied, scale=4)))
    before, plain = logits(model), tiny_model(tied=tied)
    assert (before - logits(tiny_model(tied=tied, scale=4))).abs().max() > 0.1
    plain.load_state_dict(merged_state(model))  # the plain model's names, all of them
    assert torch.allclose(logits(plain), before, atol=1e-5)
    assert torch.equal(logits(model), before)
    assert {name: value.data_ptr() for name, value in merged_state(plain).items()} == {
        name: value.data_ptr() for name, value in plain.state_dict().items()}


def test_the_scale_is_alpha_over_rank() -> None:
    delta = {}
    for alpha in (None, 4):
        model = moved(lora(tiny_model(), lora_alpha=alpha))
        name = "model.layers.0.mlp.up_proj"
        layer = model.get_submodule(name)
        delta[alpha] = merged_state(model)[f"{name}.weight"] - layer.base_layer.weight
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        assert torch.allclose(delta[alpha], (2.0 if alpha is None else 1.0) * product, atol=1e-6)


def test_switched_off_it_is_the_model_it_came_from() -> None:
    model = moved(lora(tiny_model(scale=4)))
    names = [name for name, _ in trainable(model)]
    before = logits(model)
    with adapter_off(model):
        assert torch.equal(logits(model), logits(tiny_model(scale=4)))
    assert torch.equal(logits(model), before)
    assert [name for name, _ in trainable(model)] == names


def test_peft_loads_what_was_saved(tmp_path: Path) -> None:
    model = moved(lora(tiny_model(scale=4), lora_alpha=3))
    for folder in ("one", "two"):
        save_adapter(model, tmp_path / folder)
    loaded = PeftModel.from_pretrained(tiny_model(scale=4), str(tmp_path / "one"))
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    save_adapter(tiny_model(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_saved_policy_is_merged_with_its_adapter_beside_it(base: Path, tmp_path: Path) -> None:
    model, tokenizer = moved(lora(load_policy(base))), load_tokenizer(base)
    save_policy(model, tokenizer, tmp_path)
    assert torch.allclose(logits(load_policy(tmp_path)), logits(model), atol=1e-5)
    assert torch.allclose(logits(PeftModel.from_pretrained(load_policy(base), str(tmp_path / "adapter"))),
                          logits(model), atol=1e-5)
    assert f"{load_policy(base).num_parameters():,} parameters" in (tmp_path / "README.md").read_text()


def test_named_layers_alone_are_adapted_and_others_refused() -> None:
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in
             trainable(lora(tiny_model(), lora_targets=["q_proj", "v_proj"]))}
    assert names == {"q_proj", "v_proj"}
    every = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in trainable(lora(tiny_model()))}
    assert every == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for wrong in (["q_proj", "lm_head"], ["q_prj"], []):
        with pytest.raises(UserError, match=r"lora_targets=\[.*choose from down_proj, gate_proj"):
            lora(tiny_model(), lora_targets=wrong)


def test_in_bf16_the_frozen_weights_are_16_bits_wide_and_the_adapter_32() -> None:
    model = moved(lora(tiny_model(scale=4), precision="bf16"))
    assert {parameter.dtype for _, parameter in trainable(model)} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    plain = tiny_model()
    plain.load_state_dict(merged_state(model))
    assert torch.allclose(logits(plain), logits(model).float(), atol=0.1)
    assert merged_state(model)["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32


def test_the_factors_are_adamws_and_decay_while_norms_do_not() -> None:
    model = lora(tiny_model())
    optimizer = make_optimizer(model, optimizer="muon", learning_rate=1e-3, muon_learning_rate=9.0, weight_decay=0.1)
    [group] = optimizer.param_groups
    assert (group["algorithm"], group["lr"], group["weight_decay"]) == ("adamw", 1e-3, 0.1)
    assert {id(each) for each in group["params"]} == {id(parameter) for _, parameter in trainable(model)}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = moved(lora(tiny_model(scale=4))).train()
        if recompute:
            model.gradient_checkpointing_enable()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append([parameter.grad for _, parameter in trainable(model)])
    assert all(torch.equal(*pair) and pair[0].abs().max() > 0 for pair in zip(*gradients, strict=True))


def test_an_engine_generates_with_the_adapter_on() -> None:
    model = moved(lora(tiny_model(scale=4)))
    plain = tiny_model()
    plain.load_state_dict(merged_state(model))
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    outputs = []
    for each in (model, plain, tiny_model(scale=4)):
        engine = TransformersEngine(Path(), max_length=64, model=tiny_model())
        engine.push(each)
        outputs.append([out.token_ids for out in engine.generate(IDS.tolist(), greedy, [0] * len(IDS))])
    assert outputs[0] == outputs[1] != outputs[2]


# Through the trainers ---------------------------------------------------------------------------------------------


def frozen(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()
            if not parameter.requires_grad}


def test_only_the_adapter_changes_and_resumed_equals_uninterrupted(tokenizer: Any, tmp_path: Path) -> None:
    """With dropout, so that the generators count too; a checkpoint holds the adapter and no more."""
    def trained(folder: Path, *, expect: int, killed: bool = False) -> tuple[Any, BestWeights, dict[str, Tensor]]:
        stage = test_trainers.make_stage(folder, max_steps=6, lora_rank=4, lora_dropout=0.2)
        model = adapted(test_trainers.tiny(tokenizer), stage.config, seed=stage.derive("adapter"))
        best = BestWeights(stage, lambda model: {"dev_loss": -float(stage.seed)}, key="dev_loss", higher=False,
                           every=1, patience=99)
        before = frozen(model)
        trainer = test_trainers.make_trainer(stage, tokenizer, model=model, memory=best, callbacks=[best])
        step, taken = trainer.training_step, []

        def counted(*arguments: Any, **named: Any) -> Any:
            if killed and len(taken) == expect:
                raise test_trainers.Killed
            taken.append(1)
            return step(*arguments, **named)

        trainer.training_step = counted
        with pytest.raises(test_trainers.Killed) if killed else contextlib.nullcontext():
            trainer.run()
        assert len(taken) == expect
        return model, best, before

    whole, best, before = trained(tmp_path / "whole", expect=6)
    assert all(torch.equal(value, before[name]) for name, value in frozen(whole).items())
    trained(tmp_path / "resumed", expect=5, killed=True)
    resumed, best_resumed, _ = trained(tmp_path / "resumed", expect=2)  # from the checkpoint of step 4
    for (name, one), (_, other), (_, new) in zip(
            trainable(whole), trainable(resumed), trainable(lora(test_trainers.tiny(tokenizer))), strict=True):
        assert torch.equal(one, other) and not torch.equal(one, new), name
    assert set(best.weights) == set(best_resumed.weights) == {name for name, _ in trainable(whole)}
    [checkpoint] = (tmp_path / "resumed" / "scratch" / "checkpoints").glob("checkpoint-6")
    size = sum(parameter.numel() for _, parameter in trainable(whole))
    assert (checkpoint / "model.safetensors").stat().st_size < 4 * size + 10_000
    best.restore(whole)
    assert all(torch.equal(parameter, best.weights[name]) for name, parameter in trainable(whole))


def test_dpos_reference_is_the_model_without_its_adapter(base: Path, tmp_path: Path) -> None:
    """Losses and gradients are those of a second copy as the reference, also where the adapter is no longer new."""
    stage = test_dpo.make_stage(tmp_path, base, lora_rank=4)
    _, rows = dpo.read_pairs(stage, load_tokenizer(base), "train")
    results = []
    for shared in (True, False):
        policy = moved(lora(load_policy(base)))
        trainer = DirectPreferenceTrainer(
            model=policy, ref_model=WithoutAdapter(policy) if shared else load_policy(base),
            args=DPOConfig(**training_arguments(stage), max_length=None), train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(base), stage=stage)
        policy.train()
        loss = trainer.compute_loss(policy, trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
        loss.backward()
        assert policy.training
        results.append((loss.detach(), [parameter.grad for _, parameter in trainable(policy)]))
    assert results[0][0] != pytest.approx(math.log(2), abs=1e-3)
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_dpo_learns_with_an_adapter(base: Path, tmp_path: Path) -> None:
    stage = test_dpo.make_stage(tmp_path, base, lora_rank=8, learning_rate=1e-2, gradient_checkpointing=True)
    dpo.run(stage)
    lines = [row["metrics"] for row in test_dpo.told(stage, "metrics")]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[-1]["loss"] < 0.6
    result = test_dpo.told(stage, "result")[0]["metrics"]
    made, start = load_policy(stage.output), load_policy(base)
    assert result["parameters"] < made.num_parameters() and result["pair_accuracy"]["value"] == 1.0
    assert torch.equal(made.lm_head.weight, start.lm_head.weight)
    assert not torch.equal(made.model.layers[0].mlp.up_proj.weight, start.model.layers[0].mlp.up_proj.weight)
    _, rows = dpo.read_pairs(stage, load_tokenizer(base), "dev")
    chosen, before = dpo.logprobs(made, rows)[0], dpo.logprobs(start, rows)[0]
    assert float((chosen - before).mean()) == pytest.approx(result["chosen_logprob_change"], abs=1e-4)


def test_a_reward_model_trains_an_adapter_and_its_head(base: Path, tmp_path: Path) -> None:
    stage = test_reward_model_stage.make_stage(tmp_path, base, lora_rank=8)
    reward_model.run(stage)
    result = test_reward_model_stage.told(stage, "result")[0]["metrics"]
    assert result["accuracy"]["value"] == 1.0
    tokenizer = load_tokenizer(stage.output)
    dev = reward_model.read_pairs(stage, tokenizer, "dev")
    model, start = RewardModel.load(stage.output), load_policy(base)
    chosen, rejected = reward_model.score_pairs(model, dev)
    assert bool((chosen > rejected).all()) and model.direction.abs().max() > 0
    assert torch.equal(model.trunk.lm_head.weight, start.lm_head.weight)
    beside = PeftModel.from_pretrained(copy.deepcopy(start), str(stage.output / "adapter"))
    assert torch.allclose(logits(beside), logits(model.trunk), atol=1e-5)
    assert result["parameters"] < sum(parameter.numel() for parameter in model.parameters())
