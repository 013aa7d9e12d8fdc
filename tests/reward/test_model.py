"""Reward models against sums computed by hand, whatever the batch; saved, loaded, and used as a `Reward`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from data.chat import completion_ids, render_prompt
from data.schema import Completion, Question, UserError
from data.tokenizer import build_tokenizer
from reward.model import FEATURES, ModelReward, RewardModel, fingerprint, pad_rows

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [16, 17]]
COMPLETIONS = [[20, 21, 1], [22, 1], [23, 24, 25, 26, 27, 28, 1], [29, 30, 31]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(["revenue was 46 million", "net margin is 12%"] * 20, vocab_size=300)


def make(features: str, *, vocabulary: int = 300) -> RewardModel:
    """A model with every weight of the head away from its start."""
    torch.manual_seed(0)
    trunk = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=2, intermediate_size=48,
                                         tie_word_embeddings=True, eos_token_id=1, pad_token_id=0))
    with torch.no_grad():
        trunk.lm_head.weight.mul_(20)  # predictions far from uniform
    model = RewardModel(trunk, features=features)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("trunk."):
                parameter.copy_(torch.randn(parameter.shape) + 0.5)
    return model


def by_hand(model: RewardModel, prompt: list[int], completion: list[int]) -> float:
    """The formula of the module's docstring, token by token, on a full log_softmax."""
    out = model.trunk(input_ids=torch.tensor([prompt + completion]), output_hidden_states=True, use_cache=False)
    logprobs = out.logits[0].log_softmax(-1)
    first = len(prompt)
    own = torch.stack([logprobs[first + t - 1, token] for t, token in enumerate(completion)])
    best = torch.stack([logprobs[first + t - 1].max() for t in range(len(completion))])
    score = out.hidden_states[-1][0, -1] @ model.direction + model.offset
    if model.features == "likelihood":
        score = score + model.token_weight * own.sum()
    if model.features == "regret":
        score = score + model.token_weight * (own - best).sum() + model.worst_weight * (own - best).min()
    return float(score.detach())


@pytest.mark.parametrize("features", FEATURES)
def test_scores_equal_the_formula_by_hand(features: str) -> None:
    model = make(features)
    scores = model.score(PROMPTS, COMPLETIONS)
    expected = [by_hand(model, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    assert scores.std() > 0.1


@pytest.mark.parametrize("features", FEATURES)
def test_scores_do_not_depend_on_order_padding_or_batch(features: str) -> None:
    model = make(features)
    whole = model.score(PROMPTS, COMPLETIONS)
    alone = torch.cat([model.score([prompt], [completion])
                       for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)])
    reversed_order = model.score(PROMPTS[::-1], COMPLETIONS[::-1]).flip(0)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.allclose(whole, reversed_order, atol=1e-5)
    assert torch.allclose(whole, model.score(PROMPTS, COMPLETIONS, max_tokens=12), atol=1e-5)


def test_the_prompts_likelihood_does_not_count() -> None:
    """With v = 0 only completion tokens make the score: zero log-probability weight leaves nothing but the offset."""
    model = make("likelihood")
    with torch.no_grad():
        model.direction.zero_()
        model.token_weight.zero_()
    assert torch.allclose(model.score(PROMPTS, COMPLETIONS), model.offset.detach().expand(4))


def test_regret_is_zero_for_the_trunks_own_choice_and_negative_otherwise() -> None:
    model = make("regret")
    with torch.no_grad():
        model.direction.zero_()
        model.offset.zero_()
        model.token_weight.fill_(1.0)
        model.worst_weight.zero_()
    prompt = [5, 6, 7]
    greedy: list[int] = []
    for _ in range(6):
        logits = model.trunk(input_ids=torch.tensor([prompt + greedy]), use_cache=False).logits[0, -1]
        greedy.append(int(logits.argmax()))
    other = [*greedy[:3], (greedy[3] + 1) % 300]
    scores = model.score([prompt, prompt], [greedy, other])
    assert float(scores[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(scores[1]) < -1e-3


@pytest.mark.parametrize("features", FEATURES)
def test_a_new_model_starts_from_its_trunk_alone(features: str) -> None:
    """Untrained: 0 for scalar, the completion's log-likelihood for likelihood; gradients reach head and trunk."""
    model = RewardModel(make("scalar").trunk, features=features)
    scores = model.score(PROMPTS, COMPLETIONS)
    if features == "scalar":
        assert scores.tolist() == [0.0] * 4
    if features == "likelihood":
        logits = model.trunk(input_ids=torch.tensor([PROMPTS[0] + COMPLETIONS[0]]), use_cache=False).logits[0]
        expected = logits.log_softmax(-1)[[2, 3, 4], COMPLETIONS[0]].sum()
        assert float(scores[0]) == pytest.approx(float(expected.detach()), abs=1e-4)
    model(*pad_rows([(PROMPTS[0], COMPLETIONS[0])])).sum().backward()
    assert model.direction.grad is not None
    assert model.direction.grad.abs().sum() > 0
    if features != "scalar":
        assert model.trunk.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("features", FEATURES)
def test_logits_in_chunks_give_the_same_scores_and_gradients(features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pad_rows(list(zip(PROMPTS, COMPLETIONS, strict=True)))
    gradients = []
    for limit in (1 << 27, 8 * 300 * 2):
        monkeypatch.setattr("reward.model.LOGITS_LIMIT", limit)
        model = make(features)
        model(*rows).pow(2).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize("features", FEATURES)
def test_saved_and_loaded_scores_are_the_same(features: str, tmp_path: Path,
                                              tokenizer: PreTrainedTokenizerBase) -> None:
    model = make(features)
    model.save(tmp_path, tokenizer)
    assert not list(tmp_path.glob("*.bin"))
    loaded = RewardModel.load(tmp_path)
    assert loaded.features == features
    assert torch.equal(loaded.score(PROMPTS, COMPLETIONS), model.score(PROMPTS, COMPLETIONS))


@pytest.mark.parametrize("features", FEATURES)
def test_standardised_scores_have_mean_0_variance_1_and_the_same_order(features: str) -> None:
    model = make(features)
    before = model.score(PROMPTS, COMPLETIONS)
    model.standardise(before)
    after = model.score(PROMPTS, COMPLETIONS)
    assert float(after.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(after.std()) == pytest.approx(1.0, abs=1e-5)
    assert after.argsort().tolist() == before.argsort().tolist()


def test_a_model_that_scores_all_alike_is_only_centred() -> None:
    model = RewardModel(make("scalar").trunk, features="scalar")
    model.standardise(torch.full((4,), 2.0))
    assert model.score(PROMPTS, COMPLETIONS).tolist() == [-2.0] * 4


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"no reward\.json"):
        RewardModel.load(tmp_path)
    make("likelihood").save(tmp_path, tokenizer)
    (tmp_path / "reward.json").write_text('{"features": "regret"}')
    with pytest.raises(UserError, match=r"reward\.safetensors.*does not fit features=regret"):
        RewardModel.load(tmp_path)
    (tmp_path / "reward.json").write_text('{"features": "beauty"}')
    with pytest.raises(UserError, match="beauty"):
        RewardModel.load(tmp_path)


def question() -> Question:
    return Question(id="q", source="finance", kind="growth", language="en", prompt="revenue was 46", steps=(),
                    answer="1", operand_key="k")


def test_as_a_reward_it_scores_the_sampled_ids_only_where_the_tokenizer_is_its_own(
        tokenizer: PreTrainedTokenizerBase) -> None:
    model = make("likelihood", vocabulary=len(tokenizer))
    other = build_tokenizer(["profit fell by 9 percent"] * 20, vocab_size=290)
    text = "net margin is 12%"
    odd = [*tokenizer("net margin", add_special_tokens=False)["input_ids"],
           *(i for letter in " is 12%" for i in tokenizer(letter, add_special_tokens=False)["input_ids"]),
           tokenizer.eos_token_id]  # same text, other tokens: as a policy may sample it
    assert odd != completion_ids(tokenizer, text)
    completion = Completion(question_id="q", sample=0, text=text, finish_reason="stop", token_ids=tuple(odd))
    prompt = render_prompt(tokenizer, question())
    own, foreign, unknown = (ModelReward(model, tokenizer, policy)([question()], [completion])
                             for policy in (tokenizer, other, None))
    assert own.total == pytest.approx(model.score([prompt], [odd]).tolist())
    assert foreign.total == unknown.total == pytest.approx(
        model.score([prompt], [completion_ids(tokenizer, text)]).tolist())
    assert own.parts == {"reward_model": own.total}
    assert fingerprint(other) != fingerprint(tokenizer)


def test_a_truncated_completion_gets_no_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    model = make("likelihood", vocabulary=len(tokenizer))
    scores = [ModelReward(model, tokenizer)([question()], [
        Completion(question_id="q", sample=0, text="net margin", finish_reason=reason)]).total[0]
        for reason in ("stop", "length")]
    prompt = render_prompt(tokenizer, question())
    ids = tokenizer("net margin", add_special_tokens=False)["input_ids"]
    assert scores == pytest.approx(model.score([prompt] * 2, [[*ids, tokenizer.eos_token_id], ids]).tolist(), abs=1e-5)
