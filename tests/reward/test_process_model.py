"""The process reward model: a step's tokens, what its logit is made of, and what a completion is paid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.chat import completion_ids, render_prompt
from data.schema import Completion, Question, UserError
from data.tokenizer import build_tokenizer
from reward import Span
from reward.checks import checked
from reward.model import RewardModel
from reward.process_model import (
    ProcessReward,
    ProcessRewardModel,
    number_steps,
    pad_steps,
    spans_of,
    whole_steps,
)
from reward.steps import steps_of
from tests.alignment.tiny_model import tiny_model

TEXT = "Change: 46 - 40 = 6\n\nGrowth: 6 / 40 = 15%\nAnswer: 15%"
QUESTION = Question(id="q", source="finance", kind="growth", language="en", prompt="Growth of 40 to 46?", steps=(),
                    answer="15%", operand_key="k")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer([TEXT, QUESTION.prompt, "毛利: 14 - 7 = 7 亿元"] * 3, vocab_size=300)


def made(tokenizer: PreTrainedTokenizerFast, features: str = "regret") -> ProcessRewardModel:
    model = ProcessRewardModel(tiny_model(vocab=len(tokenizer), eos=tokenizer.eos_token_id), features=features)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("trunk."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def completion(text: str = TEXT, finish_reason: str = "stop") -> Completion:
    return Completion(question_id="q", sample=0, text=text, finish_reason=finish_reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [TEXT, "毛利: 14 - 7 = 7 亿元\n答案: 7 亿元", "one line", "\n a\nb\n"])
def test_each_token_belongs_to_the_step_it_is_in(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids, steps = completion_ids(tokenizer, text), steps_of(text)
    numbers = number_steps(tokenizer, ids, steps)
    for number, step in enumerate(steps, start=1):
        own = [one for one, place in zip(ids, numbers, strict=True) if place == number]
        assert str(tokenizer.decode(own)).removesuffix("<eos>") == step
    assert numbers == sorted(numbers) and numbers[-1] == len(steps)  # the end token is the last step's


def test_tokens_beyond_the_steps_that_count_belong_to_none(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = completion_ids(tokenizer, TEXT)
    numbers = number_steps(tokenizer, ids, steps_of(TEXT)[:2])
    assert set(numbers) == {0, 1, 2} and numbers[-1] == 0
    assert number_steps(tokenizer, ids, []) == [0] * len(ids) and number_steps(tokenizer, [], []) == []


def test_a_line_that_was_cut_off_is_no_step() -> None:
    assert whole_steps(completion("a\nb", "length")) == ["a\n"]
    assert whole_steps(completion("a\nb\n", "length")) == ["a\n", "b\n"] == whole_steps(completion("a\nb\n"))
    assert whole_steps(completion("a", "length")) == []


@pytest.mark.parametrize("features", ["scalar", "likelihood", "regret"])
def test_a_steps_logit_is_a_reward_models_of_that_step_alone(tokenizer: PreTrainedTokenizerFast, features: str) -> None:
    """The slow twin: the tokens of one step as the completion, all before it as the prompt."""
    model = made(tokenizer, features)
    twin = RewardModel(model.trunk, features=features)
    twin.load_state_dict(model.state_dict())
    rows = [(render_prompt(tokenizer, QUESTION), completion_ids(tokenizer, text), steps_of(text))
            for text in (TEXT, "Change: 46 - 40 = 6\nAnswer: 6")]
    numbered = [(prompt, ids, number_steps(tokenizer, ids, steps)) for prompt, ids, steps in rows]
    found = model.step_logits(*(list(part) for part in zip(*numbered, strict=True)))
    assert [len(values) for values in found] == [3, 2]
    for (prompt, ids, numbers), values in zip(numbered, found, strict=True):
        for number, value in enumerate(values, start=1):
            before = [one for one, place in zip(ids, numbers, strict=True) if place < number]
            own = [one for one, place in zip(ids, numbers, strict=True) if place == number]
            expected = twin.score([prompt + before], [own])[0].item()
            assert value == pytest.approx(expected, abs=1e-4)


def test_rows_do_not_touch_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(tokenizer)
    rows = []
    for text in (TEXT, "Change: 46 - 40 = 6", "Answer: 1\nAnswer: 2"):
        ids = completion_ids(tokenizer, text)
        rows.append((render_prompt(tokenizer, QUESTION), ids, number_steps(tokenizer, ids, steps_of(text))))
    together = model.step_logits(*(list(part) for part in zip(*rows, strict=True)))
    alone = [model.step_logits([prompt], [ids], [numbers], max_tokens=1)[0] for prompt, ids, numbers in rows]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert model.step_logits([rows[0][0]], [[]], [[]]) == [[]]


def test_gradients_reach_the_trunk_by_the_labelled_steps_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(tokenizer)
    ids = completion_ids(tokenizer, TEXT)
    first = number_steps(tokenizer, ids, steps_of(TEXT)[:1])
    inputs, numbers = pad_steps([(render_prompt(tokenizer, QUESTION), ids, first)])
    logits = model(inputs, numbers)
    assert logits.shape == (1, 1)
    logits.sum().backward()
    embedding = model.trunk.get_input_embeddings().weight.grad
    assert embedding is not None and embedding.abs().sum() > 0
    changed = inputs.clone()
    changed[0, -3:] = 7  # tokens of the steps after it
    with torch.no_grad():
        assert torch.allclose(model(changed, numbers), logits, atol=1e-6)


def test_a_completion_is_paid_where_its_lines_end(tokenizer: PreTrainedTokenizerFast) -> None:
    reward = ProcessReward(made(tokenizer), tokenizer)
    texts = [completion(), completion("a\nb", "length"), completion("a", "length"), completion("")]
    scores = checked("process_reward", reward([QUESTION] * 4, texts), texts)
    assert scores.total == [0.0] * 4 and [len(spans) for spans in scores.spans] == [3, 1, 0, 0]
    assert [TEXT[span.start:span.end] for span in scores.spans[0]] == [
        "Change: 46 - 40 = 6", "Growth: 6 / 40 = 15%", "Answer: 15%"]
    assert all(0 < span.score < 1 / 3 for span in scores.spans[0]) and scores.paid[0] < 1


def test_more_steps_pay_no_more() -> None:
    """Certain steps: whatever their number, a completion earns 1."""
    for count in (1, 2, 5):
        spans = spans_of(["a\n"] * count, [50.0] * count)
        assert sum(span.score for span in spans) == pytest.approx(1.0)
    assert spans_of(["a\n", "\n"], [0.0, 0.0]) == [Span(0, 1, 0.25), Span(2, 3, 0.25)]


def test_sampled_ids_are_scored_as_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    """Not what the text would be tokenised to: `4` and `6` may have come as they never would again."""
    model = made(tokenizer)
    ids = tuple(completion_ids(tokenizer, TEXT))
    own = dataclasses.replace(completion(), token_ids=ids)
    same = ProcessReward(model, tokenizer, tokenizer)
    assert same.same_ids and same._ids(own) == ids
    assert ProcessReward(model, tokenizer)([QUESTION], [own]) == same([QUESTION], [own])


def test_it_is_saved_and_read_and_is_no_reward_model(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = made(tokenizer)
    model.save(tmp_path, tokenizer)
    read = ProcessReward.load(tmp_path, tokenizer)
    assert read([QUESTION], [completion()]) == ProcessReward(model, tokenizer, tokenizer)([QUESTION], [completion()])
    with pytest.raises(UserError, match=r"no reward\.json and no reward\.safetensors, so this is not a reward model's"):
        RewardModel.load(tmp_path)
