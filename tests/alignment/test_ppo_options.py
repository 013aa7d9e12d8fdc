"""What PPO can be asked to do otherwise, each against what its definition says of a batch."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from alignment import losses
from alignment.adapters import adapted
from alignment.experience import Batch
from alignment.ppo import PpoTrainer
from alignment.ppo_state import Critic, Moments, new_state
from alignment.rollout import TransformersEngine
from alignment.rollout.engine import Generation
from data.schema import UserError
from tests.alignment.test_ppo import QUESTION, Emit, Given, Shorter, make, prompts, train
from tests.alignment.tiny_model import tiny_model


def generation(tokens: Sequence[int], *, cut: bool = False) -> Generation:
    return Generation(token_ids=list(tokens), logprobs=[-1.0] * len(tokens),
                      finish_reason="length" if cut else "stop")


def viewed(trainer: PpoTrainer, completions: Sequence[Sequence[int]]) -> Batch:
    """The completions of as many prompts, seen by policy, reference and critic."""
    batch = Batch.of(prompts(len(completions)), completions, torch.device("cpu"))
    trainer._view(batch)
    return batch


COMPLETIONS = [[5, 6, 2], [7, 2], [8, 9, 10, 11, 12, 2], [13]]
SCORES = torch.tensor([1.0, 0.0, 0.5, -1.0])


def policy_gradient(trainer: PpoTrainer, batch: Batch) -> list[torch.Tensor]:
    """The gradient of one policy step on the whole batch, as the optimizer is given it."""
    kept: list[torch.Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, who: str, loss: torch.Tensor) -> float:
        kept.extend(parameter.grad.clone() for group in optimizer.param_groups for parameter in group["params"])
        optimizer.zero_grad()
        return 0.0

    trainer.updates._step = keep  # type: ignore[method-assign, assignment]
    trainer.updates._policy_step(batch, range(len(batch.prompts)))
    return kept


def plain_gradient(trainer: PpoTrainer, batch: Batch, weights: Sequence[Sequence[float]]) -> list[torch.Tensor]:
    """The same of -sum weight x advantage x log p, token by token: the policy loss where the ratio is 1."""
    policy = trainer.state.policy
    total = torch.zeros(())
    for row, (prompt, completion) in enumerate(zip(batch.prompts, batch.completions, strict=True)):
        logits = policy(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].log_softmax(-1)
        for place, token in enumerate(completion):
            total = total - (weights[row][place] * batch.advantages[row, place]
                             * logits[len(prompt) + place - 1, token])
    policy.zero_grad()
    total.backward()
    found = [parameter.grad.clone() for group in trainer.state.policy_optimizer.param_groups
             for parameter in group["params"]]
    policy.zero_grad()
    return found


@pytest.mark.parametrize("micro", [1, 4096])
@pytest.mark.parametrize("normalisation", ["token", "sequence"])
def test_every_token_or_every_completion_weighs_the_same(normalisation: str, micro: int) -> None:
    trainer = make(Shorter(), normalisation=normalisation, micro_batch_tokens=micro, whiten_advantages=False)
    batch = viewed(trainer, COMPLETIONS)
    trainer._credit(batch, SCORES.clone(), [])
    tokens = sum(map(len, COMPLETIONS))
    weights = [[1 / tokens if normalisation == "token" else 1 / (4 * len(row))] * len(row) for row in COMPLETIONS]
    for ours, plain in zip(policy_gradient(trainer, batch), plain_gradient(trainer, batch, weights), strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_tokens_the_engine_found_less_likely_count_more_up_to_the_cap() -> None:
    trainer = make(Shorter(), importance_cap=1.5, whiten_advantages=False)
    batch = viewed(trainer, COMPLETIONS)
    trainer._credit(batch, SCORES.clone(), [])
    batch.engine_logprobs = batch.old_logprobs.clone()
    batch.engine_logprobs[0] -= math.log(1.2)  # the trainer finds these 1.2 times as likely
    batch.engine_logprobs[1] -= math.log(3.0)
    batch.engine_logprobs[2] += math.log(2.0)
    weights = [[weight / 12] * len(row) for weight, row in zip((1.2, 1.5, 0.5, 1.0), COMPLETIONS, strict=True)]
    for ours, plain in zip(policy_gradient(trainer, batch), plain_gradient(trainer, batch, weights), strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_the_group_takes_the_critics_place() -> None:
    policy = tiny_model(vocab=24, eos=[2, 3])
    trainer = make(Shorter(), policy=policy, advantages="group", num_samples=4, num_prompts=16, kl_coefficient=0.05)
    trainer = PpoTrainer(trainer.config, new_state(policy, None, trainer.config), reference=copy.deepcopy(policy),
                         engine=trainer.engine, reward=Shorter(), tokenizer=trainer.tokenizer, seed=5)
    batch = viewed(trainer, COMPLETIONS)
    trainer._credit(batch, trainer._centred(SCORES), [])
    assert batch.advantages.equal(losses.group_advantages(SCORES[None])[0][:, None] * batch.mask)
    asked = [prompt for prompt in prompts(16) for _ in range(4)]
    history = [trainer.iterate([QUESTION] * 64, asked) for _ in range(14)]
    assert history[-1]["length"] < 0.6 * history[0]["length"]
    assert history[-1]["reward"] > history[0]["reward"] + 0.25
    assert "value_loss" not in history[0] and history[0]["policy_loss"] != 0  # no critic, so no warm-up


def test_without_a_critic_the_kl_is_a_loss() -> None:
    trainer = make(Shorter(), advantages="group", num_samples=2, kl_coefficient=0.7)
    batch = viewed(trainer, COMPLETIONS)
    batch.advantages = torch.zeros_like(batch.mask, dtype=torch.float32)
    assert all(not gradient.any() for gradient in policy_gradient(trainer, batch))  # at the reference: k3 is flat
    with torch.no_grad():
        batch.reference_logprobs -= 1.0
    rows = batch.reference_logprobs
    x = -torch.ones(())  # log reference - log policy, everywhere; the derivative of k3 by log p is 1 - e^x
    batch.advantages = -(0.7 * (1 - x.exp())) * batch.mask
    expected = plain_gradient(trainer, batch, [[1 / 12] * len(row) for row in COMPLETIONS])
    batch.advantages = torch.zeros_like(rows)
    for ours, plain in zip(policy_gradient(trainer, batch), expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_the_critic_may_have_a_lambda_of_its_own() -> None:
    trainer = make(Shorter(), gae_lambda=0.5, critic_lambda=1.0, whiten_advantages=False, kl_coefficient=0.0)
    batch = viewed(trainer, COMPLETIONS)
    batch.old_values = torch.rand(batch.mask.shape)
    trainer._credit(batch, SCORES.clone(), [])
    assert torch.allclose(batch.returns[2, :6], torch.full((6,), 0.5))  # Monte Carlo: the score itself
    rewards = losses.terminal_rewards(SCORES, torch.zeros_like(batch.kl), batch.lengths)
    expected, _ = losses.gae(rewards, batch.old_values, batch.lengths, gamma=1.0, lam=0.5)
    assert torch.allclose(batch.advantages, expected)


def test_what_was_cut_off_can_be_left_out() -> None:
    trainer = make(Shorter(), truncation="mask")
    generations = [generation([5, 2]), generation([5, 6], cut=True), generation([6, 2]), generation([7, 2])]
    final = trainer._final(Given([0.1, 0.2, 0.3, 0.4])([], []), generations)
    assert final.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4]) and trainer._kept(final, generations) == [0, 2, 3]
    with pytest.raises(UserError, match="every completion was cut off at max_new_tokens=16"):
        trainer._kept(final, [generation([5, 6], cut=True)] * 4)


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_cut_off_can_score_what_the_critic_expects(shared: bool) -> None:
    trainer = make(Shorter(), truncation="bootstrap", gamma=0.9, whiten_advantages=False, gae_lambda=1.0,
                   critic_from="shared" if shared else "policy", kl_coefficient=0.0, micro_batch_tokens=16)
    policy, critic = trainer.state.policy, Critic(trainer.state.policy.base_model, shared=shared)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(1))
    trainer.state.critic = critic
    batch = viewed(trainer, COMPLETIONS)
    trainer._credit(batch, SCORES.clone(), [3, 2])
    trunk = policy.base_model if shared else critic.trunk
    for row, completion in ((2, COMPLETIONS[2]), (3, COMPLETIONS[3])):
        states = trunk(input_ids=torch.tensor([batch.prompts[row] + completion])).last_hidden_state[0, -1:]
        before = batch.reference_logprobs[row, :len(completion)]
        value = critic(states, torch.stack([before.min(), before.sum()])[None].exp()).item()
        assert batch.returns[row, len(completion) - 1].item() == pytest.approx(0.9 * value, abs=1e-5)
    assert batch.returns[0, 2].item() == pytest.approx(1.0)


def test_a_shared_trunk_leaves_the_critic_its_head_and_warms_up_without_moving() -> None:
    policy = tiny_model(vocab=24, eos=[2, 3])
    trainer = make(Emit(), policy=policy, critic_from="shared", truncation_reward=0.0, critic_warmup=2)
    shared = Critic(policy.base_model, shared=True)
    trainer.state = new_state(policy, shared, trainer.config)
    trainer.updates.state = trainer.state
    assert list(shared.state_dict()) == ["head.weight", "head.bias"]
    before = copy.deepcopy(policy.state_dict())
    train(trainer, 2)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert shared.head.weight.any()
    history = train(trainer, 12)
    assert history[-1]["reward_rule"] > history[0]["reward_rule"] + 0.15
    assert history[-1]["values"] == pytest.approx(history[-1]["reward"], abs=0.2)


def test_the_value_loss_of_a_shared_trunk_reaches_it_in_proportion() -> None:
    gradients = []
    for coefficient in (0.0, 0.5, 1.0):
        policy = tiny_model(vocab=24, eos=[2, 3])
        trainer = make(Shorter(), policy=policy, value_coefficient=coefficient)
        critic = Critic(policy.base_model, shared=True)
        torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(1))
        trainer.state = trainer.updates.state = new_state(policy, critic, trainer.config)
        batch = viewed(trainer, COMPLETIONS)
        trainer._credit(batch, SCORES.clone(), [])
        gradients.append(policy_gradient(trainer, batch)[0])
    assert not torch.allclose(gradients[0], gradients[2], atol=1e-5)
    assert torch.allclose(gradients[1], (gradients[0] + gradients[2]) / 2, atol=1e-5)


def test_policy_steps_end_when_the_policy_has_gone_far_enough() -> None:
    unbounded, bounded = (train(make(Shorter(), critic_warmup=0, num_epochs=3, max_update_kl=limit), 1)[0]
                          for limit in (None, 1e-7))
    assert unbounded["policy_steps"] == 12 and bounded["policy_steps"] == 1  # the second one sees the first one's KL
    assert bounded["value_loss"] != unbounded["value_loss"] or bounded["critic_grad_norm"] > 0  # the critic goes on


def test_the_coefficient_is_steered_towards_its_target() -> None:
    loose, tight = (train(make(Emit(), truncation_reward=0.0, kl_coefficient=0.1, kl_target=target, kl_horizon=64), 5)
                    for target in (100.0, 1e-4))
    assert [line["kl_coefficient"] for line in loose[:3]] == pytest.approx([0.1, 0.08, 0.064])
    assert tight[-1]["kl_coefficient"] > 2 * loose[-1]["kl_coefficient"]


def test_the_reward_may_charge_the_exact_kl() -> None:
    trainer = make(Emit(), kl_estimator="exact", kl_coefficient=0.5, truncation_reward=0.0, critic_warmup=0)
    first, second = train(trainer, 2)
    assert first["kl_exact"] == 0 and second["kl_exact"] > 0
    batch = viewed(trainer, COMPLETIONS)
    row, prompt = 2, batch.prompts[2]
    ids = torch.tensor([prompt + COMPLETIONS[row]])
    ours, theirs = (model(input_ids=ids).logits[0, len(prompt) - 1:-1].log_softmax(-1)
                    for model in (trainer.state.policy, trainer.reference))
    assert torch.allclose(batch.kl[row, :6], (ours.exp() * (ours - theirs)).sum(-1), atol=1e-6)
    trainer._credit(batch, SCORES.clone(), [])
    assert batch.returns[row, 5].item() == pytest.approx(0.5 - 0.5 * batch.kl[row, 5].item(), abs=1e-6)


def test_scores_may_be_divided_by_their_deviation_so_far() -> None:
    trainer = make(Shorter(), reward_normalisation="running")
    batches = [[1.0, 5.0, 3.0], [10.0, -4.0, 0.5], [2.0, 2.0, 2.0]]
    seen: list[float] = []
    for scores in batches:
        seen += scores
        final = trainer._final(Given(scores)([], []), [generation([5, 2])] * 3)
        assert final.tolist() == pytest.approx([score / statistics.pstdev(seen) for score in scores])
    assert Moments().deviation == 0


def test_an_adapter_alone_learns_and_the_reference_is_the_model_without_it() -> None:
    policy = tiny_model(vocab=24, eos=[2, 3])
    plain = copy.deepcopy(policy)
    template = make(Shorter(), policy=policy, lora_rank=4, learning_rate=1e-2, critic_warmup=0, num_epochs=2)
    critic = Critic(plain.base_model)
    policy = adapted(policy, template.config, seed=1)
    trainer = PpoTrainer(template.config, new_state(policy, critic, template.config), reference=None, seed=5,
                         engine=TransformersEngine(Path(), max_length=64, model=policy), reward=Emit(),
                         tokenizer=template.tokenizer)
    frozen = {name: value.clone() for name, value in policy.named_parameters() if not value.requires_grad}
    history = train(trainer, 8)
    assert history[0]["kl_k3"] == 0 and history[-1]["kl_k3"] > 0 and history[-1]["logprob_gap_max"] < 1e-5
    assert history[-1]["reward"] > history[0]["reward"]
    assert all(torch.equal(value, dict(policy.named_parameters())[name]) for name, value in frozen.items())
    batch = viewed(trainer, COMPLETIONS)
    prompt = batch.prompts[2]
    logits = plain(input_ids=torch.tensor([prompt + COMPLETIONS[2]])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
    expected = logits[torch.arange(6), torch.tensor(COMPLETIONS[2])]
    assert torch.allclose(batch.reference_logprobs[2, :6], expected, atol=1e-5)
    assert not torch.allclose(batch.old_logprobs[2, :6], expected, atol=1e-3)
