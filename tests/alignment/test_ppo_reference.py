"""A whole PPO iteration against plain loops over completions and tokens, one big batch against many small ones; each
small mistake in the trainer turns the comparison red."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import alignment.experience
import alignment.ppo
import alignment.ppo_update
from alignment import losses
from alignment.ppo import PpoTrainer
from alignment.ppo_state import Critic
from alignment.rollout import Generation
from alignment.seeds import derive
from tests.alignment import test_ppo
from tests.alignment.test_losses import gae_by_the_definition
from tests.alignment.test_ppo import QUESTION, Given, Shorter, make, prompts
from tests.alignment.tiny_model import perturb, tiny_model

ROWS = 8
SCORES = [1.0, 0.0, 0.5, -1.0, 2.0, 0.2, 0.7, -0.3]
SETTINGS: dict[str, Any] = {
    "num_prompts": ROWS, "minibatch_size": 4, "num_epochs": 2, "micro_batch_tokens": 24, "max_new_tokens": 6,
    "critic_warmup": 0, "kl_coefficient": 0.3, "entropy_coefficient": 0.05, "gae_lambda": 0.9, "gamma": 0.97,
    "clip_range": 0.02, "clip_range_high": 0.03, "dual_clip": 1.01, "value_clip_range": 0.1, "max_grad_norm": 0.5}
RATES = {"policy": 0.6, "critic": 0.3}


def seeing(**changes: Any) -> PpoTrainer:
    """A trainer whose reference is another model, whose critic has opinions, and whose optimizers are plain descent: a
    difference of rounding stays one."""
    trainer = make(Given(SCORES), policy=tiny_model(vocab=24, eos=[2, 3], scale=4), **(SETTINGS | changes))
    state, critic = trainer.state, trainer.state.critic
    assert critic is not None
    perturb(trainer.reference, 0.05, seed=3)  # type: ignore[arg-type]
    with torch.no_grad():
        critic.head.weight.copy_(torch.randn(critic.head.weight.shape, generator=torch.Generator().manual_seed(1)) / 4)
    state.policy_optimizer, state.critic_optimizer = (
        torch.optim.SGD([{"params": list(model.parameters()), "initial_lr": RATES[who]}], lr=RATES[who])
        for who, model in (("policy", state.policy), ("critic", critic)))
    return trainer


# The plain loops ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """A completion and what is known of its tokens before the update."""

    prompt: list[int]
    tokens: list[int]
    old: list[float]
    reference: list[float]
    values: list[float]
    advantages: list[float]
    returns: list[float]


def plain_logits(model: Any, prompt: list[int], tokens: list[int]) -> list[Tensor]:
    """The log-probabilities of all next tokens, before each of the tokens."""
    logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0]
    return [logits[len(prompt) + place - 1].log_softmax(-1) for place in range(len(tokens))]


def plain_values(critic: Critic, prompt: list[int], tokens: list[int], reference: list[float]) -> list[Tensor]:
    states = critic.trunk(input_ids=torch.tensor([prompt + tokens]), use_cache=False).last_hidden_state[0]
    least = together = torch.ones(())
    values = []
    for place in range(len(tokens)):
        seen = torch.cat([states[len(prompt) + place - 1], torch.stack([least, together])])
        values.append((critic.head.weight[0] * seen).sum() + critic.head.bias[0])
        probability = torch.tensor(reference[place]).exp()
        least, together = torch.minimum(least, probability), together * probability
    return values


def plain_rows(trainer: PpoTrainer, generations: Sequence[Generation]) -> list[Row]:
    """The batch, with rewards, advantages and returns worked out token by token."""
    config, rows = trainer.config, []
    assert trainer.state.critic is not None
    with torch.no_grad():
        for prompt, generation in zip(prompts(ROWS), generations, strict=True):
            tokens = generation.token_ids
            old, reference = ([float(row[token]) for row, token in zip(plain_logits(model, prompt, tokens), tokens,
                                                                       strict=True)]
                              for model in (trainer.state.policy, trainer.reference))
            values = [float(value) for value in plain_values(trainer.state.critic, prompt, tokens, reference)]
            rows.append(Row(prompt, tokens, old, reference, values, [], []))
    for row, score, generation in zip(rows, SCORES, generations, strict=True):
        rewards = [-config.kl_coefficient * (old - reference)
                   for old, reference in zip(row.old, row.reference, strict=True)]
        rewards[-1] += score if generation.finish_reason == "stop" else config.truncation_reward
        row.advantages = gae_by_the_definition(
            torch.tensor([rewards]).double(), torch.tensor([row.values]).double(), torch.tensor([len(rewards)]),
            config.gamma, config.gae_lambda)[0].tolist()
        row.returns = [advantage + value for advantage, value in zip(row.advantages, row.values, strict=True)]
    everything = [advantage for row in rows for advantage in row.advantages]
    mean, deviation = statistics.fmean(everything), statistics.pstdev(everything)
    for row in rows:
        row.advantages = [(advantage - mean) / deviation for advantage in row.advantages]
    return rows


def plain_policy_loss(trainer: PpoTrainer, row: Row) -> list[Tensor]:
    """PPO's objective of each token, with its branches written out."""
    config, found = trainer.config, []
    for place, logprobs in enumerate(plain_logits(trainer.state.policy, row.prompt, row.tokens)):
        ratio, advantage = (logprobs[row.tokens[place]] - row.old[place]).exp(), row.advantages[place]
        assert config.clip_range_high is not None and config.dual_clip is not None
        gained = ratio * advantage
        if advantage > 0 and ratio > 1 + config.clip_range_high:
            gained = torch.tensor((1 + config.clip_range_high) * advantage)
        if advantage < 0 and ratio < 1 - config.clip_range:
            gained = torch.tensor((1 - config.clip_range) * advantage)
        if advantage < 0 and ratio > config.dual_clip:
            gained = torch.tensor(config.dual_clip * advantage)
        found.append(-gained + config.entropy_coefficient * (logprobs.exp() * logprobs).sum())
    return found


def plain_value_loss(trainer: PpoTrainer, row: Row) -> list[Tensor]:
    found, reach = [], trainer.config.value_clip_range
    assert reach is not None and trainer.state.critic is not None
    for place, value in enumerate(plain_values(trainer.state.critic, row.prompt, row.tokens, row.reference)):
        wanted, old = row.returns[place], row.values[place]
        near = old + max(-reach, min(reach, value.item() - old))
        held = torch.tensor(near) if abs(value.item() - old) > reach else value
        found.append(0.5 * max((value - wanted) ** 2, (held - wanted) ** 2))
    return found


def plain_step(model: torch.nn.Module, loss: Tensor, *, rate: float, limit: float) -> None:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None) ** 0.5
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= rate * min(1.0, limit / norm) * gradient


def plain_update(trainer: PpoTrainer, rows: list[Row]) -> None:
    config = trainer.config
    assert trainer.state.critic is not None
    for epoch in range(config.num_epochs):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(derive(trainer.seed, "order", 0, epoch)))
        for part in range(2):
            chosen = [rows[row] for row in order.tolist()[part::2]]
            count = sum(len(row.tokens) for row in chosen)
            for who, model, loss_of in (("critic", trainer.state.critic, plain_value_loss),
                                        ("policy", trainer.state.policy, plain_policy_loss)):
                loss = sum((loss for row in chosen for loss in loss_of(trainer, row)), torch.zeros(())) / count
                plain_step(model, loss, rate=RATES[who], limit=config.max_grad_norm)


def test_an_iteration_is_what_plain_loops_make_of_it() -> None:
    ours, plain = seeing(), seeing()
    generations = plain._generate([QUESTION] * ROWS, prompts(ROWS))
    assert {generation.finish_reason for generation in generations} == {"stop", "length"}
    metrics = ours.iterate([QUESTION] * ROWS, prompts(ROWS))
    assert 0.1 < metrics["clip_fraction"] < 0.9 and metrics["policy_grad_norm"] > 0.5  # every branch is taken
    rows = plain_rows(plain, generations)
    differences = [old - reference for row in rows for old, reference in zip(row.old, row.reference, strict=True)]
    assert metrics["kl"] == pytest.approx(statistics.fmean(differences), abs=1e-5)
    plain_update(plain, rows)
    before = seeing()
    for mine, theirs, start in ((ours.state.policy, plain.state.policy, before.state.policy),
                                (ours.state.critic, plain.state.critic, before.state.critic)):
        assert mine is not None and theirs is not None and start is not None
        moved = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), start.parameters(), strict=True))
        apart = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
        assert moved > 1e-2 and apart < 1e-5


def test_at_the_first_inner_step_the_ratio_is_one_and_nothing_is_clipped() -> None:
    one = {"num_prompts": ROWS, "max_new_tokens": 6, "critic_warmup": 0, "clip_range": 1e-5, "learning_rate": 3e-2}
    first = make(Shorter(), minibatch_size=ROWS, **one).iterate([QUESTION] * ROWS, prompts(ROWS))
    assert first["clip_fraction"] == 0 and first["policy_steps"] == 1
    assert first["ratio_first"] == pytest.approx(1, abs=1e-6) and first["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert first["update_kl"] == pytest.approx(0, abs=1e-9)
    later = make(Shorter(), minibatch_size=ROWS, num_epochs=2, **one).iterate([QUESTION] * ROWS, prompts(ROWS))
    assert later["clip_fraction"] > 0.1 and later["ratio_max"] > 1.01 and later["update_kl"] > 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_eight_micro_batches_of_one_are_one_of_eight(optimizer: str) -> None:
    """In fp32, over two epochs of policy and critic: no weight differs by more than 5e-5, and on average by nothing."""
    ends = []
    for tokens in (1, 4096):
        trainer = make(Shorter(), optimizer=optimizer, num_prompts=ROWS, minibatch_size=ROWS, num_epochs=2,
                       critic_warmup=0, micro_batch_tokens=tokens, learning_rate=3e-4, muon_learning_rate=1e-3)
        trainer.iterate([QUESTION] * ROWS, prompts(ROWS))
        assert trainer.state.critic is not None
        ends.append(torch.cat([parameter.detach().flatten() for model in (trainer.state.policy, trainer.state.critic)
                               for parameter in model.parameters()]))
    drift = ends[0] - ends[1]
    assert 0 < drift.abs().max() <= 5e-5
    assert drift.mean().abs() <= 3 * drift.std() / len(drift) ** 0.5


def test_the_losses_other_forms_have_the_gradients_of_their_values() -> None:
    generator = torch.Generator().manual_seed(4)
    old, advantages = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    moved = (old + torch.tensor([0.1, -0.1, 0.5, -0.5, 1.5, -1.5])).requires_grad_()
    mask = torch.tensor([True, True, False, True, True, True])
    for loss in (lambda x: losses.policy_loss(x, old, advantages, clip_low=0.2, clip_high=0.2),
                 lambda x: losses.value_loss(x, old, advantages, clip_range=None),
                 lambda x: losses.truncated_importance(x, old, 1.2),
                 lambda x: losses.masked_mean(x, mask, 3.0)):
        assert torch.autograd.gradcheck(loss, moved)


# Mistakes ----------------------------------------------------------------------------------------------------------

MUTATIONS = {
    "ppo_update: entropy is punished": ("loss = loss - config.entropy", "loss = loss + config.entropy"),
    "ppo_update: no dual clip": (", dual_clip=config.dual_clip)", ")"),
    "ppo_update: one range for both sides": ("clip_high=self.clip_high, dual_clip",
                                             "clip_high=config.clip_range, dual_clip"),
    "ppo_update: the ratio is to the reference": ("old, advantages = batch.tokens(batch.old_logprobs, micro)",
                                                  "old, advantages = batch.tokens(batch.reference_logprobs, micro)"),
    "ppo_update: no value clip": ("clip_range=self.config.value_clip_range)", "clip_range=None)"),
    "ppo_update: the critic learns the advantages": ("batch.tokens(batch.returns, micro)",
                                                     "batch.tokens(batch.advantages, micro)"),
    "ppo_update: a micro-batch's own mean": ("values.sum() / float(batch.lengths[list(rows)].sum())",
                                             "values.sum() / float(batch.lengths[list(micro)].sum())"),
    "ppo_update: gradients are not clipped": ("self.config.max_grad_norm or math.inf", "math.inf"),
    "ppo_update: gradients pile up": ("        optimizer.zero_grad(set_to_none=True)\n        return norm",
                                      "        return norm"),
    "ppo_update: every epoch in one order": ('"order", state.draw, epoch)', '"order", state.draw, 0)'),
    "ppo_update: one epoch too few": ("range(config.num_epochs)", "range(config.num_epochs - 1)"),
    "ppo: the KL is rewarded": ("state.kl_coefficient * batch.kl", "-state.kl_coefficient * batch.kl"),
    "ppo: advantages are not whitened": ("if config.whiten_advantages else", "if not config.whiten_advantages else"),
    "ppo: lambda is 1": ("lam=config.gae_lambda)", "lam=1.0)"),
    "ppo: what ended counts as cut off": ('penalised and generation.finish_reason == "length"',
                                          'penalised and generation.finish_reason == "stop"'),
    "experience: states one token late": ("completions)[:, :-1]", "completions)[:, 1:]"),
    "experience: trust in the token itself": (".roll(1, dims=1)", ".roll(0, dims=1)"),
}
MODULES: dict[str, ModuleType] = {"ppo": alignment.ppo, "ppo_update": alignment.ppo_update,
                                  "experience": alignment.experience}
USERS = {"ppo": [(test_ppo, "PpoTrainer")], "ppo_update": [(alignment.ppo, "PpoUpdates")],
         "experience": [(alignment.ppo, "Batch"), (alignment.ppo_update, "Batch")]}


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_mistake_in_the_trainer_turns_the_comparison_red(mistake: str, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    name = mistake.partition(":")[0]
    before, after = MUTATIONS[mistake]
    source = inspect.getsource(MODULES[name])
    assert source.count(before) == 1, "the mutation no longer fits the source"
    (tmp_path / "mutant.py").write_text(source.replace(before, after), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", tmp_path / "mutant.py")
    assert spec is not None and spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutant", mutant)  # where dataclasses look their annotations up
    spec.loader.exec_module(mutant)
    for module, attribute in USERS[name]:
        monkeypatch.setattr(module, attribute, getattr(mutant, attribute))
    with pytest.raises(AssertionError):
        test_an_iteration_is_what_plain_loops_make_of_it()
