"""Every stage and both engines take Llama, Qwen2, Qwen3 and Gemma, tied and untied, trained whole and with LoRA."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from alignment import group_trainer
from alignment.adapters import adapted, trainable
from alignment.kinds import Sft
from alignment.models import load_policy, load_tokenizer, save_policy, set_special_tokens
from alignment.origin import EMBEDDED
from alignment.rollout import Sampling, TransformersEngine, VllmEngine
from alignment.stages import dpo, grpo, reward_model, sft
from data.schema import Completion, Question
from reward import Scores, Span
from reward.model import RewardModel
from tests.alignment import test_dpo, test_group_stages, test_reward_model_stage, test_training_stages
from tests.alignment.test_ppo import Shorter, prompts, train
from tests.alignment.test_ppo import make as make_ppo

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM wheel on this platform")
ARCHITECTURES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"rms_norm_eps": 1e-5}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),  # wider than hidden_size / num_attention_heads
    "gemma": (GemmaConfig, GemmaForCausalLM, {"head_dim": 32, "num_key_value_heads": 1}),
}
GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
IDS = torch.randint(6, 1000, (4, 24), generator=torch.Generator().manual_seed(0))


def random_model(architecture: str, *, tied: bool, width: int = 32) -> PreTrainedModel:
    """Two layers for the embedded tokenizer's vocabulary, with weights so wide that greedy choices are clear."""
    config_class, model_class, shape = ARCHITECTURES[architecture]
    tokenizer = load_tokenizer(EMBEDDED)
    config = config_class(**({
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
        "tie_word_embeddings": tied} | shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = model_class(config).eval()
    set_special_tokens(model, tokenizer)
    return model


@pytest.fixture(scope="module", params=[(name, tied) for name in ARCHITECTURES for tied in (True, False)],
                ids=lambda param: f"{param[0]}-{'tied' if param[1] else 'untied'}")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    name, tied = request.param
    folder = tmp_path_factory.mktemp(name)
    save_policy(random_model(name, tied=tied), load_tokenizer(EMBEDDED), folder)
    return folder


@pytest.fixture(params=[0, 4], ids=["full", "lora"])
def rank(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def policy_of(base: Path, rank: int) -> Any:
    return adapted(load_policy(base), Sft(lora_rank=rank), seed=3)


@torch.no_grad()
def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    for _, parameter in trainable(model):
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def head_and_body_moved(made: Any, base: Path) -> tuple[bool, bool]:
    """Whether the output layer and a matrix of the body differ from the base model's."""
    start: Any = load_policy(base)
    pairs = [(made.lm_head.weight, start.lm_head.weight),
             (made.model.layers[0].mlp.up_proj.weight, start.model.layers[0].mlp.up_proj.weight)]
    return not torch.equal(*pairs[0]), not torch.equal(*pairs[1])


def test_saved_and_loaded_it_is_the_same_model(base: Path, rank: int, tmp_path: Path) -> None:
    model = moved(policy_of(base, rank))
    save_policy(model, load_tokenizer(base), tmp_path)
    loaded: Any = load_policy(tmp_path)
    assert type(loaded) is type(model)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)
    assert (logits(load_policy(base)) - logits(model)).abs().max() > 0.1
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == loaded.config.tie_word_embeddings


def test_the_engine_is_greedy_as_generate_is(base: Path, rank: int) -> None:
    model = moved(policy_of(base, rank))
    engine = TransformersEngine(base, max_length=64)
    engine.push(model)
    asked = [ids[:length].tolist() for ids, length in zip(IDS, (24, 9, 17, 24), strict=True)]
    for prompt, out in zip(asked, engine.generate(asked, GREEDY, [0] * 4), strict=True):
        expected = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
                                  do_sample=False, max_new_tokens=12)[0, len(prompt):].tolist()
        assert out.token_ids == expected


def test_it_is_fine_tuned(base: Path, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "open_source", lambda config: test_training_stages.SmallSource())
    config = test_training_stages.sft_config(max_steps=2, eval_every=2, lora_rank=rank, max_length=128,
                                             warmup_steps=0)
    stage = test_training_stages.make_stage(tmp_path, "sft", config, model=base)
    sft.run(stage)
    first, *_, last = [row["metrics"] for row in test_training_stages.told(stage, "metrics")]
    made = load_policy(stage.output)
    assert head_and_body_moved(made, base) == (rank == 0, True)
    exam = sft.Exam(load_tokenizer(base), test_training_stages.SmallSource().questions("dev", count=None, seed=0))
    assert exam.loss(made) == pytest.approx(last["dev_loss"], abs=1e-4)
    assert exam.loss(made) < exam.loss(load_policy(base))
    assert 0 < first["grad_norm"] < math.inf


def test_it_learns_preferences(base: Path, rank: int, tmp_path: Path) -> None:
    stage = test_dpo.make_stage(tmp_path, base, max_steps=2, lora_rank=rank)
    dpo.run(stage)
    lines = [row["metrics"] for row in test_dpo.told(stage, "metrics")]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # policy and reference are the same
    assert lines[1]["loss"] < lines[0]["loss"]
    made = load_policy(stage.output)
    assert head_and_body_moved(made, base) == (rank == 0, True)
    _, rows = dpo.read_pairs(stage, load_tokenizer(base), "dev")
    change = dpo.logprobs(made, rows)[0] - dpo.logprobs(load_policy(base), rows)[0]
    assert float(change.mean()) == pytest.approx(
        test_dpo.told(stage, "result")[0]["metrics"]["chosen_logprob_change"], abs=1e-3)


def test_a_reward_model_grows_on_it(base: Path, rank: int, tmp_path: Path) -> None:
    stage = test_reward_model_stage.make_stage(tmp_path, base, max_steps=2, lora_rank=rank)
    reward_model.run(stage)
    model, rows = RewardModel.load(stage.output), reward_model.read_pairs(stage, load_tokenizer(base), "dev")
    chosen, rejected = reward_model.score_pairs(model, rows)
    loss = float(-torch.nn.functional.logsigmoid(chosen - rejected).mean())
    assert loss == pytest.approx(test_reward_model_stage.told(stage, "result")[0]["metrics"]["log_loss"], abs=1e-4)
    assert head_and_body_moved(model.trunk, base) == (rank == 0, True)


def test_ppo_trains_it(base: Path, rank: int) -> None:
    """Trainer, reference and engine see the same log-probabilities before the first update and after the last."""
    policy = policy_of(base, rank)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    trainer = make_ppo(Shorter(), policy=policy, critic_warmup=0, num_prompts=8, minibatch_size=8, max_new_tokens=8)
    first, second = train(trainer, 2)
    assert first["ratio_first"] == pytest.approx(1, abs=1e-6) and first["kl_k3"] == 0
    assert second["kl_k3"] > 0
    assert max(first["logprob_gap_max"], second["logprob_gap_max"]) < 1e-4
    changed = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, _ in trainable(policy)}


class OddStart:
    """Pays completions that begin with an odd token: the scores of a group differ, also where all are cut off."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        spans = [[Span(0, len(row.text), 1.0)] if row.text and row.token_ids[0] % 2 else [] for row in completions]
        return Scores([0.0] * len(completions), {"rule": [float(bool(span)) for span in spans]}, spans)


def test_grpo_trains_it(base: Path, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PPO does, by TRL's trainer."""
    monkeypatch.setattr(group_trainer, "make_reward", lambda *args, **kwargs: OddStart())
    stage = test_group_stages.stage_of("grpo", tmp_path, base, lora_rank=rank, num_iterations=2, minibatch_size=16,
                                       max_new_tokens=8, truncation_reward=0.0)
    grpo.run(stage)
    first, second = [line for _, line in test_group_stages.untimed(stage)][:2]
    assert first["kl_k3"] == 0 < second["kl_k3"]
    assert max(first["logprob_gap_max"], second["logprob_gap_max"]) < 1e-4
    assert head_and_body_moved(load_policy(stage.output), base) == (rank == 0, True)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vllm_serves_it(architecture: str, tied: bool, tmp_path: Path) -> None:
    """From the folder, after a push of all weights, and after a push of an adapted model: the tokens of the other
    engine."""
    model = random_model(architecture, tied=tied, width=64)  # vLLM's CPU attention takes heads of 32 and more
    save_policy(model, load_tokenizer(EMBEDDED), tmp_path)
    asked = prompts(8)
    plain = TransformersEngine(tmp_path, max_length=64)
    fast = VllmEngine(tmp_path, max_length=64, max_num_seqs=8, kv_cache_mb=32)
    try:
        for pushed in (None, moved(model), moved(policy_of(tmp_path, 4))):
            if pushed is not None:
                plain.push(pushed)
                fast.push(pushed)
            expected, found = (engine.generate(asked, GREEDY, [0] * 8) for engine in (plain, fast))
            assert [out.token_ids for out in found] == [out.token_ids for out in expected]
    finally:
        fast.close()
