"""Process rewards: characters to sampled tokens, by two tokenizers, against bytes and plain loops; what PPO pays."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import data
from alignment import losses
from alignment.experience import Batch
from alignment.ppo import PpoTrainer
from alignment.process import Steps, last_token
from alignment.rollout.engine import Generation
from alignment.rollout.rows import to_completion
from data.chat import completion_ids, token_offsets
from data.schema import Completion, Question
from data.tokenizer import read_tokenizer
from reward import Scores, Span
from tests.alignment.test_ppo import QUESTION, make, prompts
from tests.alignment.test_ppo_options import COMPLETIONS, SCORES, generation, viewed

CPU = torch.device("cpu")
TEXTS = st.lists(st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=4),
    st.sampled_from(["净利润", " 亿元\n", "\r\n", "  ", "<eos>", "46 - 40 = 6",
                     "e\u0301", "👩‍👩‍👧", "🇨🇳", "नि"])), max_size=8)


@functools.cache
def embedded() -> PreTrainedTokenizerBase:
    """Byte-level BPE."""
    return read_tokenizer(Path(data.__path__[0]) / "embedded" / "base_tiny")


@functools.cache
def other() -> PreTrainedTokenizerFast:
    """SentencePiece's way, as Llama 2 has it: ▁ for a space, the first one dropped, and bytes for what is no piece."""
    pieces = ["▁", "▁the", "the", "profit", "净利润", "元", "46", "4", "6", "0", "e", "=", "-", "\n", "<eos>"]
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), *((p, -2.0) for p in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>",
                                   clean_up_tokenization_spaces=False)


def completion(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, ended: bool = True) -> Completion:
    """The ids as sampled, EOS after them where they came to their end, and their text."""
    ids = [*ids, tokenizer.eos_token_id] if ended else list(ids)
    return to_completion(tokenizer, "q", 0, Generation(ids, [0.0] * len(ids), "stop" if ended else "length"))


def encoded(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str],
            whole: Sequence[bool]) -> tuple[list[int], list[bytes]]:
    """Ids that a policy may sample for the pieces, each encoded or written byte by byte; and each id's bytes."""
    alphabet = {chr(code): byte for byte, code in enumerate(byte_codes())}
    ids: list[int] = []
    for piece, as_text in zip(pieces, whole, strict=True):
        if as_text:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
        else:
            ids += tokenizer.convert_tokens_to_ids([chr(byte_codes()[byte]) for byte in piece.encode()])
    names = tokenizer.convert_ids_to_tokens(ids)
    special = set(tokenizer.all_special_tokens)
    return ids, [name.encode() if name in special else bytes(alphabet[letter] for letter in name) for name in names]


@functools.cache
def byte_codes() -> list[int]:
    """byte -> the code point that byte-level BPE writes it as (Radford et al. 2019): itself where it can be printed."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = iter(range(256, 512))
    return [byte if byte in printed else next(rest) for byte in range(256)]


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_a_character_ends_at_the_token_with_its_last_byte(pieces: list[str], whole: list[bool], ended: bool) -> None:
    tokenizer = embedded()
    ids, written = encoded(tokenizer, pieces, whole[:len(pieces)])
    row = completion(tokenizer, ids, ended=ended)
    assert row.text == "".join(pieces)
    upto = [sum(map(len, written[:count + 1])) for count in range(len(ids))]  # bytes after each token
    for end in range(1, len(row.text) + 1):
        needed = len(row.text[:end].encode())
        assert last_token(tokenizer, row, end) == next(place for place, have in enumerate(upto) if have >= needed)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([embedded, other]), st.booleans())
def test_any_ids_are_placed_as_the_slow_twin_places_them(data: st.DataObject, which: object, ended: bool) -> None:
    """Ids at random: pieces of characters that never become one, special tokens, spaces that are dropped."""
    tokenizer = which()  # type: ignore[operator]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=24))
    assume(ended or ids[-1] != tokenizer.eos_token_id)  # what draws that token has ended
    row = completion(tokenizer, ids, ended=ended)
    offsets = token_offsets(tokenizer, row.token_ids) if row.text else []
    for end in range(1, len(row.text) + 1):
        place = last_token(tokenizer, row, end)
        standing = (str(tokenizer.decode(ids[:count])).startswith(row.text[:end]) for count in range(len(ids) + 1))
        assert place == list(standing).index(True) - 1
        if "\ufffd" not in row.text:
            assert place == max(i for i, (first, last) in enumerate(offsets) if first < end and last > first)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_a_sentencepiece_tokenizer_places_whole_texts(pieces: list[str]) -> None:
    tokenizer, text = other(), "".join(pieces)
    row = completion(tokenizer, completion_ids(tokenizer, text.replace(" ", "▁"), finished=False))
    for end in range(1, len(row.text) + 1):
        place = last_token(tokenizer, row, end)
        assert str(tokenizer.decode(list(row.token_ids[:place + 1]))).startswith(row.text[:end])
        assert not str(tokenizer.decode(list(row.token_ids[:place]))).startswith(row.text[:end])


def test_a_chinese_step_written_byte_by_byte_ends_where_its_last_byte_does() -> None:
    tokenizer = embedded()
    ids, _ = encoded(tokenizer, ["利润: 6", "元", "\n答案: 6"], [True, False, True])
    row = completion(tokenizer, ids)
    first = len(tokenizer("利润: 6", add_special_tokens=False)["input_ids"])
    assert row.text == "利润: 6元\n答案: 6" and last_token(tokenizer, row, len("利润: 6元")) == first + 2
    assert last_token(tokenizer, row, len(row.text)) == len(ids) - 1  # not the EOS


def test_what_ends_at_one_token_is_paid_in_one() -> None:
    tokenizer = embedded()
    ids = tokenizer("净利润 = 6", add_special_tokens=False)["input_ids"]
    assert len(tokenizer("净利润", add_special_tokens=False)["input_ids"]) == 1
    rows = [completion(tokenizer, ids), completion(tokenizer, ids[:1])]
    spans = [[Span(0, 1, 0.5), Span(1, 3, 0.25), Span(3, 7, -1.0)], [Span(0, 3, 0.0)]]
    found = Steps.of(tokenizer, rows, spans, CPU)
    assert found is not None and found.rewards.tolist() == [[0.75, *[0.0] * (len(ids) - 2), -1.0, 0.0],
                                                            [0.0] * (len(ids) + 1)]
    assert found.ends.nonzero().tolist() == [[0, 0], [0, len(ids) - 1], [1, 0]]  # a step that is paid nothing is one
    assert Steps.of(tokenizer, rows, [[], []], CPU) is None and Steps.of(tokenizer, rows, [], CPU) is None


# What PPO pays, on ids as text: "5 6 2" -----------------------------------------------------------------------------


class Stepwise:
    """Scores, and spans, as given; or each token but the end paid 1 where it is the wished one."""

    def __init__(self, total: Sequence[float], spans: list[list[Span]]) -> None:
        self.total, self.spans = list(total), spans

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        return Scores(self.total, {}, self.spans)


GIVEN = [[Span(0, 1, 0.5), Span(2, 3, 0.25)], [], [Span(0, 3, -1.0), Span(0, 12, 2.0)], [Span(0, 2, 1.0)]]
PLACES = [{0: 0.5, 1: 0.25}, {}, {1: -1.0, 4: 2.0}, {0: 1.0}]  # of the above in COMPLETIONS


def paid(trainer: PpoTrainer, spans: list[list[Span]]) -> Steps:
    """What the trainer makes of spans of COMPLETIONS."""
    rows = [generation(row) for row in COMPLETIONS[:3]] + [generation(COMPLETIONS[3], cut=True)]
    steps = trainer._steps(Scores(SCORES.tolist(), {}, spans), [QUESTION] * 4, rows)
    assert steps is not None
    return steps


def test_gae_gets_each_spans_score_at_its_last_token() -> None:
    trainer = make(Stepwise([], []), whiten_advantages=False, gae_lambda=0.7, gamma=0.9, kl_coefficient=0.3)
    batch = viewed(trainer, COMPLETIONS)
    batch.old_values, batch.kl = torch.rand(batch.mask.shape), torch.rand(batch.mask.shape)
    batch.step_rewards = paid(trainer, GIVEN).rewards
    trainer._credit(batch, SCORES.clone(), [])
    for row, completion_ in enumerate(COMPLETIONS):
        length, values = len(completion_), [*batch.old_values[row, :len(completion_)].tolist(), 0.0]
        advantage = 0.0
        for t in reversed(range(length)):
            reward = PLACES[row].get(t, 0.0) - 0.3 * batch.kl[row, t].item() + (SCORES[row].item() if t == length - 1
                                                                                else 0.0)
            advantage = reward + 0.9 * values[t + 1] - values[t] + 0.9 * 0.7 * advantage
            assert batch.advantages[row, t].item() == pytest.approx(advantage, abs=1e-5)


def test_the_baseline_and_the_spread_are_of_all_that_a_completion_is_paid() -> None:
    trainer = make(Stepwise([], []), num_samples=2, num_prompts=2, group_baseline=True, min_spread=0.5)
    steps = paid(trainer, GIVEN)
    everything = SCORES + torch.tensor([0.75, 0.0, 1.0, 1.0])
    centred = trainer._centred(SCORES, steps)
    assert (centred + steps.rewards.sum(1)).tolist() == pytest.approx(
        [1.75 - 0.0, 0.0 - 1.75, 1.5 - 0.0, 0.0 - 1.5])  # each less the other one of its question
    assert trainer._kept(everything, [generation(row) for row in COMPLETIONS]) == [0, 1, 2, 3]
    assert trainer._centred(SCORES).equal(losses.leave_one_out(SCORES.view(2, 2)).flatten())


def test_a_group_normalises_its_steps() -> None:
    trainer = make(Stepwise([], []), num_samples=2, num_prompts=2, advantages="group")
    steps = paid(trainer, GIVEN)
    batch = viewed(trainer, COMPLETIONS[2:])
    trainer._credit(batch, trainer._centred(SCORES, steps)[2:], [])
    mean, deviation = statistics.fmean([-1.0, 2.0, 1.0]), (statistics.variance([-1.0, 2.0, 1.0])
                                                           + statistics.variance([0.5, -1.0])) ** 0.5 + 1e-4
    first = [(1 - 2 * mean + 0.75) / deviation] * 2 + [(2 - mean + 0.75) / deviation] * 3 + [0.75 / deviation]
    assert batch.advantages[0].tolist() == pytest.approx(first, abs=1e-5)
    assert batch.advantages[1, :2].tolist() == pytest.approx([((1 - mean) - 0.75) / deviation, 0.0], abs=1e-5)


def test_running_normalisation_divides_spans_and_scores_alike() -> None:
    trainer = make(Stepwise([], []), reward_normalisation="running")
    scores = Scores([1.0, 0.0], {}, [[Span(0, 1, 2.0)], []])
    rows = [generation([5, 2]), generation([6, 2])]
    final, steps = trainer._final(scores, rows), trainer._steps(scores, [QUESTION] * 2, rows)
    deviation = statistics.pstdev([3.0, 0.0])
    assert final.tolist() == pytest.approx([1 / deviation, 0.0])
    assert steps is not None and steps.rewards.tolist() == [[pytest.approx(2 / deviation), 0.0], [0.0, 0.0]]


class EarlyToken:
    """Pays the wished token where it stands, and nothing at the end."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        spans = []
        for row in completions:
            words = row.text.split(" ") if row.text else []
            starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
            spans.append([Span(start, start + 2, 1 / 16) for start, word in zip(starts, words, strict=True)
                          if word == "11"])
        return Scores([0.0] * len(completions), {}, spans)


@pytest.mark.parametrize("advantages", ["gae", "group"])
def test_a_policy_learns_from_steps_alone(advantages: str) -> None:
    trainer = make(EarlyToken(), truncation_reward=0.0, advantages=advantages, num_samples=2, num_prompts=32)
    asked = [prompt for prompt in prompts(32) for _ in range(2)]
    history = [trainer.iterate([QUESTION] * 64, asked) for _ in range(12)]
    assert all(line["reward"] == line["process_reward"] for line in history)
    assert statistics.fmean(line["reward"] for line in history[-3:]) > 1.5 * history[0]["reward"]


def test_without_spans_nothing_changes_bit_for_bit() -> None:
    class Shorter:
        def __init__(self, spans: bool) -> None:
            self.spans = spans

        def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
            scores = [-len(row.token_ids) / 15 for row in completions]
            return Scores(scores, {"rule": scores}, [[] for _ in completions] if self.spans else [])

    for changes in ({"group_baseline": True, "min_spread": 0.05}, {"advantages": "group"},
                    {"reward_normalisation": "running"}):
        weights = []
        for spans in (False, True):
            trainer = make(Shorter(spans), num_samples=2, num_prompts=8, imitation_steps=1, critic_warmup=0, **changes)
            asked = [prompt for prompt in prompts(8) for _ in range(2)]
            history = [trainer.iterate([QUESTION] * 16, asked) for _ in range(2)]
            assert "process_reward" not in history[0]
            weights.append([parameter.detach().clone() for parameter in trainer.state.policy.parameters()])
        assert all(torch.equal(one, another) for one, another in zip(*weights, strict=True))


def test_a_batch_of_what_is_kept_keeps_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Stepwise([0.0] * 4, [[], [], [Span(0, 1, 0.5)], []])
    trainer = make(reward, num_prompts=2, num_samples=2, min_spread=0.25, truncation_reward=0.0)
    seen: list[Batch] = []
    monkeypatch.setattr(trainer.updates, "update", lambda batch: seen.append(batch) or {})
    asked = [prompt for prompt in prompts(2) for _ in range(2)]
    metrics = trainer.iterate([QUESTION] * 4, asked)
    assert seen[0].prompts == asked[2:] and metrics["trained_on"] == 0.5  # what differs is what its steps earned
    assert seen[0].step_rewards is not None and seen[0].step_rewards.shape == seen[0].mask.shape
    assert seen[0].step_rewards.nonzero().tolist() == [[0, 0]]
    assert metrics["reward"] == metrics["process_reward"] == 0.125
