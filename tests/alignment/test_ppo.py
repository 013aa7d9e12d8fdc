"""PPO as a whole, on models small enough to learn in seconds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from alignment import losses
from alignment.experience import Batch
from alignment.kinds import Ppo
from alignment.ppo import PpoTrainer, check_head
from alignment.ppo_state import Critic, Remembered, new_state
from alignment.ppo_update import policy_logprobs
from alignment.question_pool import draw
from alignment.rollout import Engine, TransformersEngine
from data.schema import Completion, Question, UserError
from reward import Scores
from reward.mixture import WeightedReward
from tests.alignment.tiny_model import tiny_model

QUESTION = Question(id="q", source="file", kind="any", language="en", prompt="", steps=(), answer="", operand_key="k")
WISHED = 11  # the token that "emit a token" rewards


class Tokenizer:
    """Ids as text."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class Shorter:
    """Prefers the shorter completion: 0 for one token, -1 for sixteen."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        scores = [-(len(completion.token_ids) - 1) / 15 for completion in completions]
        return Scores(scores, {"rule": scores})


class Emit:
    """The share of a completion's tokens that are the wished one."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        scores = [completion.token_ids.count(WISHED) / len(completion.token_ids) for completion in completions]
        return Scores(scores, {"rule": scores})


def make(reward: object, *, tied: bool = True, policy: PreTrainedModel | None = None, engine: Engine | None = None,
         **changes: object) -> PpoTrainer:
    config = Ppo(**{"num_prompts": 64, "minibatch_size": 16, "max_new_tokens": 16, "critic_warmup": 1,
                    "learning_rate": 3e-3, "critic_learning_rate": 3e-3, "kl_coefficient": 0.0,
                    "truncation_reward": -1.0, "micro_batch_tokens": 512, **changes})
    policy = policy or tiny_model(tied=tied, vocab=24, eos=[2, 3])
    engine = engine or TransformersEngine(Path(), max_length=64, model=policy)
    state = new_state(policy, Critic(policy.base_model), config)
    return PpoTrainer(config, state, reference=copy.deepcopy(policy), reward=reward,  # type: ignore[arg-type]
                      engine=engine, tokenizer=Tokenizer(), seed=5)  # type: ignore[arg-type]


def prompts(count: int) -> list[list[int]]:
    return [[4 + (row * 7 + place) % 20 for place in range(3 + row % 5)] for row in range(count)]


def train(trainer: PpoTrainer, iterations: int) -> list[dict[str, float]]:
    count = trainer.config.num_prompts
    return [trainer.iterate([QUESTION] * count, prompts(count)) for _ in range(iterations)]


@pytest.mark.parametrize("tied", [True, False])
def test_the_policy_learns_to_answer_shortly(tied: bool) -> None:
    history = train(make(Shorter(), tied=tied), 14)
    assert history[-1]["length"] < 0.5 * history[0]["length"]
    assert history[-1]["reward"] > history[0]["reward"] + 0.3
    assert history[-1]["truncated"] < history[0]["truncated"]


def test_the_policy_learns_to_emit_a_token_and_the_critic_to_foresee_it() -> None:
    history = train(make(Emit(), truncation_reward=0.0), 14)
    assert history[-1]["reward_rule"] > history[0]["reward_rule"] + 0.2
    assert history[0]["values"] == 0 and history[-1]["values"] == pytest.approx(history[-1]["reward"], abs=0.15)


def test_a_negated_reward_is_learnt_the_other_way() -> None:
    class Longer:
        def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
            scores = [len(completion.token_ids) / 15 for completion in completions]
            return Scores(scores, {"rule": scores})

    history = train(make(Longer(), truncation_reward=2.0), 8)
    assert history[-1]["length"] > history[0]["length"] + 1


def test_before_the_first_update_the_policy_is_the_reference_and_the_engine_agrees() -> None:
    trainer = make(Shorter(), critic_warmup=0)
    first = train(trainer, 1)[0]
    assert first["ratio_first"] == pytest.approx(1, abs=1e-6)
    assert first["kl"] == first["kl_sequence"] == first["kl_k3"] == 0
    assert first["values"] == 0
    assert first["logprob_gap_max"] < 1e-5
    second = train(trainer, 1)[0]
    assert second["ratio_first"] == pytest.approx(1, abs=1e-5)
    assert second["kl_k3"] > 0 and second["logprob_gap_max"] < 1e-5


def test_warming_up_trains_the_critic_alone() -> None:
    trainer = make(Shorter(), critic_warmup=1)
    before = copy.deepcopy(trainer.state.policy.state_dict())
    critic = copy.deepcopy(trainer.state.critic.state_dict())
    metrics = train(trainer, 1)[0]
    assert "policy_loss" not in metrics
    assert all(torch.equal(value, before[name]) for name, value in trainer.state.policy.state_dict().items())
    assert not torch.equal(trainer.state.critic.head.weight, critic["head.weight"])
    train(trainer, 1)
    assert not all(torch.equal(value, before[name]) for name, value in trainer.state.policy.state_dict().items())


def test_the_penalty_holds_the_policy_near_the_reference() -> None:
    free, held = (train(make(Emit(), kl_coefficient=beta, truncation_reward=0.0), 8)[-1] for beta in (0.0, 1.0))
    assert held["kl_k3"] < 0.5 * free["kl_k3"]


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    runs = []
    for _ in range(2):
        trainer = make(Shorter(), num_epochs=2)
        torch.manual_seed(torch.seed())  # global randomness must not matter
        train(trainer, 3)
        runs.append(trainer.state)
    for one, other in ((runs[0].policy, runs[1].policy), (runs[0].critic, runs[1].critic)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_micro_batches_change_memory_and_nothing_else() -> None:
    gradients = []
    for tokens in (1, 4096):  # one row at a time; all eight together
        trainer = make(Shorter(), micro_batch_tokens=tokens, num_prompts=8, critic_warmup=0)
        generations = trainer._generate([QUESTION] * 8, prompts(8))
        batch = Batch.of(prompts(8), [generation.token_ids for generation in generations], torch.device("cpu"))
        assert len(list(batch.micro_batches(range(8), tokens))) == (8 if tokens == 1 else 1)
        trainer._view(batch)
        trainer._credit(batch, trainer._final(trainer._score([QUESTION] * 8, generations), generations), [])
        steps: list[list[torch.Tensor]] = []

        def keep(optimizer: torch.optim.Optimizer, who: str, loss: torch.Tensor, kept: list = steps) -> float:
            kept.append([parameter.grad.clone() for group in optimizer.param_groups for parameter in group["params"]])
            return 0.0

        trainer.updates._step = keep  # type: ignore[method-assign, assignment]
        trainer.updates._policy_step(batch, range(8))
        trainer.updates._critic_step(batch, range(8))
        gradients.append([gradient for step in steps for gradient in step])
    for single, whole in zip(*gradients, strict=True):
        assert torch.allclose(single, whole, atol=1e-6)


def test_states_are_those_before_each_completion_token_without_padding() -> None:
    model = tiny_model(vocab=24)
    batch = Batch.of([[5, 6, 7], [8], [9, 10]], [[11, 2], [0, 0, 2], [12]], torch.device("cpu"))
    states, targets = batch.states(model.base_model, [2, 0, 1])
    assert targets.tolist() == [12, 11, 2, 0, 0, 2]  # a real token may have the padding's id
    expected = []
    for row in (2, 0, 1):
        ids = torch.tensor([batch.prompts[row] + batch.completions[row]])
        expected.append(model.base_model(input_ids=ids).last_hidden_state[0, len(batch.prompts[row]) - 1:-1])
    assert torch.allclose(states, torch.cat(expected), atol=1e-5)


def test_a_truncated_completion_gets_its_own_reward_by_finish_reason() -> None:
    trainer = make(Shorter(), truncation_reward=-7.0)
    generations = trainer._generate([QUESTION] * 64, prompts(64))
    batch = Batch.of(prompts(64), [generation.token_ids for generation in generations], torch.device("cpu"))
    trainer._view(batch)
    trainer._credit(batch, trainer._final(trainer._score([QUESTION] * 64, generations), generations), [])
    cut = [row for row, generation in enumerate(generations) if generation.finish_reason == "length"]
    kept = [row for row, generation in enumerate(generations) if generation.finish_reason == "stop"]
    assert cut and kept
    assert all(batch.returns[row, batch.lengths[row] - 1].item() == pytest.approx(-7) for row in cut)
    assert all(batch.returns[row, batch.lengths[row] - 1].item() > -1.01 for row in kept)
    assert losses.length_mask(batch.lengths, 16).equal(batch.mask)


class Given:
    """The scores it was made with, whatever the completions."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        return Scores(self.scores, {"rule": self.scores})


def test_a_question_whose_scores_are_alike_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(Given([1, 1, 0, 1, 0, 0.4, 0, 0]), num_prompts=4, num_samples=2, min_spread=0.5,
                   group_baseline=True, truncation_reward=0.0, max_new_tokens=40, whiten_advantages=False)
    seen: list[Batch] = []
    monkeypatch.setattr(trainer.updates, "update", lambda batch: seen.append(batch) or {})
    monkeypatch.setattr(trainer, "_final", lambda scores, generations: torch.tensor(scores.total))
    asked = [prompt for prompt in prompts(4) for _ in range(2)]
    metrics = trainer.iterate([QUESTION] * 8, asked)
    assert seen[0].prompts == asked[2:4] and metrics["trained_on"] == 0.25
    assert seen[0].returns[torch.arange(2), seen[0].lengths - 1].tolist() == [-1, 1]  # less the other one's score
    assert metrics["reward"] == pytest.approx(0.425)  # of all, not of those trained on alone
    trainer.reward = Given([1.0] * 8)
    assert trainer.iterate([QUESTION] * 8, asked)["trained_on"] == 1  # rather than on nothing


def test_what_scored_above_the_mean_is_remembered_and_imitated() -> None:
    trainer = make(Given([1, 0, 0, 1]), num_prompts=4, truncation_reward=0.0, max_new_tokens=40, imitation_steps=1,
                   imitation_batch_size=8, imitation_memory=3, critic_warmup=0)
    asked = prompts(4)
    state = trainer.state
    trainer._final = lambda scores, generations: torch.tensor(scores.total).float()  # type: ignore[method-assign]
    trainer.iterate([QUESTION] * 4, asked)
    assert [(row.prompt, row.gain) for row in state.memory] == [(asked[0], 0.5), (asked[3], 0.5)]
    before = remembered_logprobs(trainer)
    loss = trainer.updates.imitate()["imitation_loss"]
    assert loss == pytest.approx(-before.mean().item(), rel=1e-5)  # equal gains: the mean per token
    assert remembered_logprobs(trainer).mean() > before.mean()
    trainer.iterate([QUESTION] * 4, asked)
    assert len(state.memory) == 3  # the latest


def remembered_logprobs(trainer: PpoTrainer) -> torch.Tensor:
    batch = Batch.of([row.prompt for row in trainer.state.memory], [row.completion for row in trainer.state.memory],
                     torch.device("cpu"))
    with torch.no_grad():
        states, targets = batch.states(trainer.state.policy.base_model, range(len(batch.prompts)))
        return policy_logprobs(trainer.state.policy, states, targets, trainer.config)[0]


def test_better_completions_are_imitated_more() -> None:
    trainer = make(Shorter(), imitation_steps=1)
    texts = [[5, 6, 2], [7, 8, 9, 2]]
    trainer.state.iteration = 1
    trainer.state.memory = [Remembered([4, 5], text, gain) for text, gain in zip(texts, (0.1, 0.9), strict=True)]
    logprobs = remembered_logprobs(trainer)
    expected = -(0.1 * logprobs[:3].sum() + 0.9 * logprobs[3:].sum()) / (0.1 * 3 + 0.9 * 4)
    assert trainer.updates.imitate()["imitation_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_minibatches_are_of_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(Shorter(), num_prompts=33, minibatch_size=16)
    sizes: list[int] = []
    monkeypatch.setattr(trainer.updates, "_critic_step", lambda batch, rows: sizes.append(len(rows)) or {})
    train(trainer, 1)
    assert sizes == [11, 11, 11]


def test_a_linear_schedule_ends_at_nothing() -> None:
    trainer = make(Shorter(), schedule="linear", num_iterations=4, learning_rate=0.4)
    rates = []
    for trainer.state.iteration in range(5):
        trainer.updates._set_rates()
        rates.append(trainer.state.policy_optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_what_is_not_finite_stops_the_training() -> None:
    class Broken:
        def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
            return Scores([float("nan")] * len(completions), {})

    with pytest.raises(FloatingPointError, match="iteration 0: the critic's loss is nan"):
        train(make(Broken()), 1)


def test_a_model_that_alters_its_logits_is_refused() -> None:
    model = tiny_model(vocab=24)
    check_head(model)
    model.lm_head.register_forward_hook(lambda module, arguments, output: output)
    forward = model.forward
    model.forward = lambda **keywords: type("Out", (), {"logits": 3 * forward(**keywords).logits})()  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match="changes its logits"):
        check_head(model)


def test_a_pass_over_the_pool_uses_each_question_once() -> None:
    drawn = [index for iteration in range(10) for index in draw(30, 12, iteration, seed=1)]
    for start in range(0, 120, 30):
        assert sorted(drawn[start:start + 30]) == list(range(30))
    assert drawn[:30] != drawn[30:60]
    assert draw(30, 12, 3, seed=1) == drawn[36:48]


def test_a_critic_may_keep_the_lower_layers_alone() -> None:
    policy = tiny_model(vocab=24)
    critic = Critic(policy.base_model, num_layers=1)
    assert len(critic.trunk.layers) == 1 and len(policy.base_model.layers) == 2
    assert critic.trunk.embed_tokens.weight is not policy.base_model.embed_tokens.weight
    states = critic.trunk(input_ids=torch.tensor([[4, 5]]), use_cache=False).last_hidden_state
    assert critic(states[0], torch.ones(2, 2)).tolist() == [0, 0]


def test_the_critic_is_told_how_likely_the_reference_found_the_tokens_before() -> None:
    batch = Batch.of([[4], [4, 5]], [[5, 6, 7], [6]], torch.device("cpu"))
    batch.reference_logprobs = torch.tensor([[0.5, 0.2, 0.4], [0.1, 1.0, 1.0]]).log()
    expected = torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.2, 0.1], [1.0, 1.0]])  # before token 0, 1, 2; before token 0
    torch.testing.assert_close(batch.trust([0, 1]), expected)


def test_a_weighted_sum_logs_raw_parts_and_keeps_the_first_scale() -> None:
    def part(values: list[float]):  # type: ignore[no-untyped-def]
        return lambda questions, completions: Scores(values, {})

    completions = [Completion(question_id="q", sample=i, text="", finish_reason="stop") for i in range(2)]
    rewards = {"rule": part([0.0, 1.0]), "reward_model": part([10.0, 14.0]), "spare": part([5.0, 5.0])}
    scales: dict[str, tuple[float, float]] = {}
    mixture = WeightedReward(rewards, {"rule": 1.0, "reward_model": 0.5}, standardised=["reward_model"], scales=scales)
    scores = mixture([QUESTION] * 2, completions)
    assert scores.total == [-0.5, 1.5]
    assert scores.parts == {"rule": [0.0, 1.0], "reward_model": [10.0, 14.0], "spare": [5.0, 5.0]}
    assert scales == {"reward_model": (12.0, 2.0)}
    rewards["reward_model"] = part([12.0, 16.0])
    assert WeightedReward(rewards, {"reward_model": 1.0}, standardised=["reward_model"],
                          scales=scales)([QUESTION] * 2, completions).total == [0.0, 2.0]
    with pytest.raises(UserError, match="judge"):
        WeightedReward(rewards, {"judge": 1.0})
