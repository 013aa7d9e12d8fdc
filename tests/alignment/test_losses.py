"""The losses against closed forms, limits, plain loops, gradient signs and numerical gradients."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from alignment import losses

LENGTHS = torch.tensor([5, 1, 3, 7])


def rows(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random rewards and values (4, 7), garbage outside the rows included."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(4, 7, generator=generator, dtype=dtype), torch.randn(4, 7, generator=generator, dtype=dtype))


def gae_by_the_definition(rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float) -> Tensor:
    """Equation 16 as a double sum, in Python numbers."""
    advantages = torch.zeros_like(rewards)
    for row, length in enumerate(lengths.tolist()):
        r, v = rewards[row].tolist(), [*values[row, :length].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            advantages[row, t] = sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t))
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.8, 1.0), (1.0, 1.0)])
def test_gae_equals_its_definition(gamma: float, lam: float) -> None:
    rewards, values = rows()
    advantages, returns = losses.gae(rewards, values, LENGTHS, gamma=gamma, lam=lam)
    expected = gae_by_the_definition(rewards, values, LENGTHS, gamma, lam)
    mask = losses.length_mask(LENGTHS, 7)
    assert torch.allclose(advantages, expected)
    assert torch.allclose(returns[mask], (expected + values)[mask])
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_gae_lambda_zero_is_the_one_step_error() -> None:
    rewards, values = rows()
    advantages, _ = losses.gae(rewards, values, LENGTHS, gamma=0.9, lam=0.0)
    assert torch.allclose(advantages[0, :4], rewards[0, :4] + 0.9 * values[0, 1:5] - values[0, :4])
    assert torch.allclose(advantages[0, 4], rewards[0, 4] - values[0, 4])


def test_gae_lambda_one_is_the_return_minus_the_value() -> None:
    rewards, values = rows()
    advantages, returns = losses.gae(rewards, values, LENGTHS, gamma=0.9, lam=1.0)
    discounted = sum(0.9 ** k * rewards[2, 1 + k] for k in range(2))
    assert torch.allclose(advantages[2, 1], discounted - values[2, 1])
    assert torch.allclose(returns[2, 1], torch.as_tensor(discounted))


def test_a_terminal_score_reaches_every_token_undiminished() -> None:
    scores, penalties = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.zeros(4, 7)
    rewards = losses.terminal_rewards(scores, penalties, LENGTHS)
    advantages, _ = losses.gae(rewards, torch.zeros(4, 7), LENGTHS, gamma=1.0, lam=1.0)
    mask = losses.length_mask(LENGTHS, 7)
    assert torch.equal(advantages, scores[:, None] * mask)


def test_rewards_are_the_penalty_everywhere_and_the_score_at_the_last_real_token() -> None:
    penalties = torch.full((4, 7), 0.25)
    rewards = losses.terminal_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), penalties, LENGTHS)
    assert rewards[0].tolist() == [-0.25, -0.25, -0.25, -0.25, 0.75, 0, 0]
    assert rewards[1].tolist() == [1.75, 0, 0, 0, 0, 0, 0]


def test_spans_on_the_way_count_from_their_last_token_back() -> None:
    """Two spans of 0.5 and -2 that end at tokens 1 and 3 of five, a score of 1 at the end, values of 0."""
    rewards = losses.terminal_rewards(torch.tensor([1.0]), torch.zeros(1, 5), torch.tensor([5]))
    rewards[0, 1] += 0.5
    rewards[0, 3] += -2.0
    values = torch.zeros(1, 5)
    undiscounted, _ = losses.gae(rewards, values, torch.tensor([5]), gamma=1.0, lam=1.0)
    assert undiscounted[0].tolist() == [-0.5, -0.5, -1.0, -1.0, 1.0]  # what is still to come
    halved, _ = losses.gae(rewards, values, torch.tensor([5]), gamma=1.0, lam=0.5)
    assert halved[0].tolist() == [0.5 / 2 - 2 / 8 + 1 / 16, 0.5 - 2 / 4 + 1 / 8, -2 / 2 + 1 / 4, -2 + 1 / 2, 1.0]
    one_step, returns = losses.gae(rewards, torch.full((1, 5), 0.25), torch.tensor([5]), gamma=1.0, lam=0.0)
    assert one_step[0].tolist() == [0.0, 0.5, 0.0, -2.0, 0.75]
    assert returns[0].tolist() == [0.25, 0.75, 0.25, -1.75, 1.0]


def steps() -> tuple[Tensor, Tensor, Tensor]:
    """Scores of two questions' three completions, and steps at some of their tokens, one of them paid nothing."""
    scores = torch.tensor([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    rewards = torch.zeros(2, 3, 5, dtype=torch.float64)
    ends = torch.zeros(2, 3, 5, dtype=torch.bool)
    for place, value in {(0, 0, 1): 0.5, (0, 0, 3): -1.0, (0, 1, 2): 0.0, (0, 2, 4): 2.0, (0, 2, 0): 1.0,
                         (1, 0, 1): 1.0, (1, 1, 1): 0.0, (1, 1, 4): 3.0}.items():
        rewards[place], ends[place] = value, True
    return scores, rewards, ends


def test_process_supervision_equals_its_definition() -> None:
    """Section 4.1.3 in Python numbers, and 4.1.2's advantage beside it over the same deviation."""
    scores, rewards, ends = steps()
    found = losses.process_advantages(scores, rewards, ends, eps=0.0)
    for question in range(2):
        paid = rewards[question][ends[question]].tolist()
        mean, spread = statistics.fmean(paid), statistics.variance(paid)
        deviation = math.sqrt(spread + statistics.variance(scores[question].tolist()))
        for row in range(3):
            for t in range(5):
                later = sum(rewards[question, row, k].item() - mean for k in range(t, 5) if ends[question, row, k])
                outcome = scores[question, row].item() - statistics.fmean(scores[question].tolist())
                assert found[question, row, t].item() == pytest.approx((later + outcome) / deviation)


def test_process_supervision_alone_and_outcome_supervision_alone_are_the_papers() -> None:
    scores, rewards, ends = steps()
    normalised = (rewards - rewards[1][ends[1]].mean()) / rewards[1][ends[1]].std() * ends
    alone = losses.process_advantages(scores, rewards, ends, eps=0.0)[1]  # whose scores do not vary
    assert torch.allclose(alone, normalised[1].flip(-1).cumsum(-1).flip(-1))
    outcome = losses.process_advantages(scores, torch.zeros_like(rewards), torch.zeros_like(ends))
    assert torch.allclose(outcome, losses.group_advantages(scores)[:, :, None].expand(2, 3, 5))


def test_the_leave_one_out_baseline_is_the_mean_of_the_others() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, -1.0]], dtype=torch.float64)
    by_hand = torch.stack([torch.stack([row[i] - torch.cat([row[:i], row[i + 1:]]).mean() for i in range(4)])
                           for row in scores])
    assert torch.allclose(losses.leave_one_out(scores), by_hand)
    assert losses.leave_one_out(scores)[1, 3] == -3


def test_whitening_is_over_the_real_tokens_of_the_whole_batch() -> None:
    values, _ = rows(dtype=torch.float32)
    mask = losses.length_mask(LENGTHS, 7)
    white = losses.whiten(values, mask)
    assert white[mask].mean() == pytest.approx(0, abs=1e-6)
    assert white[mask].std(unbiased=False) == pytest.approx(1, abs=1e-5)
    assert (white[~mask] == 0).all()
    assert torch.allclose(losses.whiten(values * 1e6 * ~mask + values * mask, mask), white)
    assert (losses.whiten(torch.full((4, 7), 2.0), mask) == 0).all()


def test_masked_mean_over_an_explicit_count_adds_up_over_micro_batches() -> None:
    values, _ = rows()
    mask = losses.length_mask(LENGTHS, 7)
    whole = losses.masked_mean(values, mask)
    parts = [losses.masked_mean(values[i:i + 1], mask[i:i + 1], count=mask.sum()) for i in range(4)]
    assert torch.allclose(torch.stack(parts).sum(), whole)
    assert whole == pytest.approx(values[mask].mean().item())
    assert losses.masked_mean(values.masked_fill(~mask, math.nan), mask).isfinite()


OLD = torch.tensor([-1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 2.0, -0.5], dtype=torch.float64)


def policy_loss(logprobs: Tensor, **changes: float | None) -> Tensor:
    settings: dict[str, float | None] = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, **changes}
    return losses.policy_loss(logprobs, OLD, ADVANTAGES, **settings)  # type: ignore[arg-type]


def test_at_ratio_one_the_policy_loss_is_the_policy_gradient() -> None:
    logprobs = OLD.clone().requires_grad_()
    loss = policy_loss(logprobs)
    loss.sum().backward()
    assert torch.allclose(loss, -ADVANTAGES)
    assert torch.allclose(logprobs.grad, -ADVANTAGES)  # descent raises what did better than expected
    ratio = losses.importance_ratio(OLD, OLD)
    assert (ratio == 1).all()
    assert not losses.clipped(ratio, ADVANTAGES, clip_low=0.2, clip_high=0.2).any()


@pytest.mark.parametrize(("ratio", "advantage", "low", "high", "loss", "gradient"), [
    (1.5, 1.0, 0.2, 0.2, -1.2, 0.0),  # gone far enough up: no more
    (1.5, 1.0, 0.2, 0.8, -1.5, -1.5),  # a higher ceiling lets it go on
    (0.5, 1.0, 0.2, 0.2, -0.5, -0.5),  # on the losing side the clip is silent
    (0.5, -1.0, 0.2, 0.2, 0.8, 0.0),  # gone far enough down: no more
    (0.5, -1.0, 0.6, 0.2, 0.5, 0.5),
    (1.5, -1.0, 0.2, 0.2, 1.5, 1.5),
])
def test_the_clip_takes_the_pessimistic_side(ratio: float, advantage: float, low: float, high: float, loss: float,
                                             gradient: float) -> None:
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([advantage], dtype=torch.float64)
    value = losses.policy_loss(logprobs, torch.zeros(1, dtype=torch.float64), advantages, clip_low=low, clip_high=high)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprobs.grad is not None and logprobs.grad.item() == pytest.approx(gradient)
    stopped = losses.clipped(torch.tensor([ratio]), advantages, clip_low=low, clip_high=high)
    assert stopped.item() == (gradient == 0)


def test_the_dual_clip_bounds_the_loss_of_a_bad_token_only() -> None:
    logprobs = OLD + math.log(10)
    assert torch.allclose(policy_loss(logprobs, dual_clip=3.0), torch.tensor([-1.2, 3.0, -2.4, 1.5]).double())
    assert torch.allclose(policy_loss(logprobs), torch.tensor([-1.2, 10.0, -2.4, 5.0]).double())


def test_the_log_ratio_is_bounded() -> None:
    assert losses.importance_ratio(torch.tensor([1e4]), torch.zeros(1)).item() == pytest.approx(math.exp(20))


def test_the_value_loss_takes_the_worse_of_the_two_errors() -> None:
    old, returns = torch.zeros(3), torch.tensor([1.0, 1.0, -1.0])
    values = torch.tensor([0.9, 0.1, 0.9], requires_grad=True)
    loss = losses.value_loss(values, old, returns, clip_range=0.2)
    assert loss.tolist() == pytest.approx([0.5 * 0.8 ** 2, 0.5 * 0.9 ** 2, 0.5 * 1.9 ** 2])
    loss.sum().backward()
    assert values.grad is not None and values.grad.tolist() == pytest.approx([0.0, -0.9, 1.9])
    assert losses.value_loss(values, old, returns, clip_range=None).tolist() == pytest.approx([0.005, 0.405, 1.805])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_is_zero_where_the_policies_agree_and_right_in_the_mean(estimator: str) -> None:
    logprobs = torch.tensor([-0.5, -3.0, -20.0])
    assert (losses.kl_estimate(logprobs, logprobs, estimator) == 0).all()
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.45, 0.3, 0.25]], dtype=torch.float64)
    mean = (p * losses.kl_estimate(p.log(), q.log(), estimator)).sum()
    exact = (p * (p / q).log()).sum()
    assert mean.item() == pytest.approx(exact.item(), rel=0.05 if estimator == "k2" else 1e-9)


def test_k2_and_k3_are_never_negative_and_k1_has_the_sign_of_the_difference() -> None:
    policy, reference = torch.randn(100), torch.randn(100)
    assert (losses.kl_estimate(policy, reference, "k2") >= 0).all()
    assert (losses.kl_estimate(policy, reference, "k3") >= 0).all()
    assert torch.equal(losses.kl_estimate(policy, reference, "k1").sign(), (policy - reference).sign())
    with pytest.raises(ValueError, match="k1, k2 and k3"):
        losses.kl_estimate(policy, reference, "k4")


def test_group_advantages_are_standard_scores_within_a_question() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0, 3.0, 6.0, 9.0]])
    found = losses.group_advantages(scores, eps=1e-9)
    assert found[0].tolist() == pytest.approx([0.75 ** 0.5, -(0.75 ** 0.5), -(0.75 ** 0.5), 0.75 ** 0.5])
    assert found[1].tolist() == [0, 0, 0, 0]  # no contrast, nothing to learn
    assert found[2].tolist() == pytest.approx([(x - 4.5) / 15 ** 0.5 for x in (0, 3, 6, 9)])


def test_importance_weights_are_the_ratio_up_to_their_cap() -> None:
    old, engine = torch.tensor([-1.0, -1.0, -3.0]), torch.tensor([-1.0, -3.0, -1.0])
    found = losses.truncated_importance(old, engine, 2.0)
    assert found.tolist() == pytest.approx([1.0, 2.0, math.exp(-2)])


@pytest.mark.parametrize("limit", [1 << 20, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_exact_kl_is_the_sum_over_the_vocabulary_and_its_top_never_more(limit: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(2)
    head, other = torch.nn.Linear(6, 32, bias=False), torch.nn.Linear(6, 32, bias=False)
    states, theirs = (torch.randn(9, 6, generator=generator) * 3 for _ in range(2))

    def found(top_k: int | None) -> Tensor:
        return losses.exact_kl(states, head, theirs, other, temperature=temperature, top_k=top_k, limit=limit)

    p, q = (head(states) / temperature).softmax(-1), (other(theirs) / temperature).softmax(-1)
    expected = torch.stack([sum(a * (a / b).log() for a, b in zip(*pair, strict=True))
                            for pair in zip(p, q, strict=True)])
    assert torch.allclose(found(None), expected, atol=1e-4) and torch.equal(found(32), found(None))
    assert (losses.exact_kl(states, head, states, head) == 0).all()
    for smaller, larger in ((1, 4), (4, 31)):
        assert (found(smaller) <= found(larger) + 1e-5).all()
    assert torch.allclose(found(31), expected, atol=1e-4)  # one token is all the others
    top = p.topk(4, dim=-1)
    ours, rest = top.values, 1 - top.values.sum(-1)
    reference = q.gather(-1, top.indices)
    lumped = (ours * (ours / reference).log()).sum(-1) + rest * (rest / (1 - reference.sum(-1))).log()
    assert torch.allclose(found(4), lumped, atol=1e-4)


def test_the_coefficient_follows_the_kl_within_a_fifth() -> None:
    def next_one(kl: float) -> float:
        return losses.adapted_coefficient(0.1, kl, target=2.0, count=500, horizon=10000)

    assert next_one(2.0) == 0.1
    assert next_one(2.2) == pytest.approx(0.1 * (1 + 0.1 * 0.05))
    assert next_one(40.0) == pytest.approx(0.1 * (1 + 0.2 * 0.05)) and next_one(0.0) == pytest.approx(0.1 * 0.99)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    returns, _ = rows(dtype=torch.float32)
    mask = losses.length_mask(LENGTHS, 7)
    assert losses.explained_variance(returns, returns, mask) == pytest.approx(1)
    assert losses.explained_variance(torch.full_like(returns, 3.0), returns, mask) == pytest.approx(0, abs=1e-6)
    assert losses.explained_variance(-returns, returns, mask) == pytest.approx(-3, abs=1e-5)


def test_entropy_at_its_limits() -> None:
    assert losses.entropy(torch.zeros(2, 8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert losses.entropy(torch.tensor([[100.0, 0, 0]])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("limit", [1 << 20, 64, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_logprobs_equal_the_plain_softmax_in_any_chunks(limit: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    head = torch.nn.Linear(6, 32, bias=False).double()
    states = torch.randn(9, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(32, (9,), generator=generator)
    logprobs, entropies = losses.token_logprobs(states, head, targets, temperature=temperature, with_entropy=True,
                                                limit=limit)
    assert entropies is not None
    (logprobs.sum() + entropies.sum()).backward()
    gradients = [states.grad, head.weight.grad]
    states.grad = head.weight.grad = None
    plain = (head(states).float() / temperature).log_softmax(-1)
    expected = plain[torch.arange(9), targets]
    (expected.sum() - (plain.exp() * plain).sum()).backward()
    assert torch.allclose(logprobs, expected, atol=1e-6)
    for ours, theirs in zip(gradients, [states.grad, head.weight.grad], strict=True):
        assert ours is not None and theirs is not None and torch.allclose(ours, theirs, atol=1e-5)


def test_gradients_are_those_of_the_losses() -> None:
    generator = torch.Generator().manual_seed(3)
    def random(low: float, high: float) -> Tensor:
        return torch.rand(6, generator=generator, dtype=torch.float64) * (high - low) + low

    logprobs, advantages = random(-1.5, -0.5).requires_grad_(), random(-1, 1)
    old = torch.full((6,), -1.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: losses.policy_loss(x, old, advantages, clip_low=0.2, clip_high=0.3, dual_clip=3.0), logprobs)
    assert torch.autograd.gradcheck(
        lambda x: losses.value_loss(x, old, advantages, clip_range=0.2), random(-2, 1).requires_grad_())
    for estimator in ("k1", "k2", "k3"):
        assert torch.autograd.gradcheck(lambda x, e=estimator: losses.kl_estimate(x, old, e), logprobs)
    assert torch.autograd.gradcheck(losses.entropy, random(-1, 1).reshape(2, 3).requires_grad_())
