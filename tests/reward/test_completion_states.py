"""A prompt read once for all its completions gives the states, and the gradients, of each row read by itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reward import completion_states as module
from reward.completion_states import batches, completion_states

SHAPE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48}
GEMMA = Gemma3TextConfig(**SHAPE, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
LONG = list(range(5, 20))
PROMPTS = [LONG, LONG, LONG[:9], LONG[:9], LONG[:9], LONG[1:14]]
COMPLETIONS = [[20, 21, 22], [23], [24, 25, 26], [], [29, 30], [31, 32]]


def trunk(config: Any, kind: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).base_model


TRUNKS = {"llama": lambda: trunk(LlamaConfig(**SHAPE), LlamaForCausalLM),
          "qwen3": lambda: trunk(Qwen3Config(**SHAPE), Qwen3ForCausalLM),
          "gemma, with a sliding window": lambda: trunk(GEMMA, Gemma3ForCausalLM)}


@pytest.mark.parametrize("made", TRUNKS)
def test_states_and_gradients_are_those_of_each_row_alone(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for worth in (1.0, 0.0):
        monkeypatch.setattr(module, "WORTH", worth)
        model = TRUNKS[made]()
        states = completion_states(model, PROMPTS, COMPLETIONS)
        rows = torch.cat([row[:len(completion) + 1] for row, completion in zip(states, COMPLETIONS, strict=True)])
        (rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum().backward()
        found.append((rows.detach(), [parameter.grad for parameter in model.parameters()]))
    alone = torch.cat([TRUNKS[made]()(input_ids=torch.tensor([prompt + completion]), use_cache=False)
                       .last_hidden_state[0, len(prompt) - 1:] for prompt, completion
                       in zip(PROMPTS, COMPLETIONS, strict=True)])
    for rows, _ in found:
        assert (rows - alone).abs().max() < 1e-5
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).abs().max() < 1e-4


def test_a_long_prompt_is_read_once() -> None:
    model, read = TRUNKS["llama"](), []
    model.register_forward_hook(lambda _, __, kwargs, ___: read.append(tuple(kwargs["input_ids"].shape)),
                                with_kwargs=True)
    completion_states(model, [LONG] * 4, [[20, 21]] * 4)
    completion_states(model, [[5]] * 4, [[20, 21, 22, 23]] * 4)  # too short to be worth it
    completion_states(model, [LONG, LONG[1:]], [[20], [20]])  # not the same
    assert read == [(1, 15), (4, 2), (4, 5), (2, 16)]


@pytest.mark.parametrize("prompts", [[LONG] * 4 + [LONG[1:]] * 2, [[5] * (3 + row) for row in range(6)]],
                         ids=["shared", "distinct"])
@pytest.mark.parametrize("max_tokens", [1, 22, 40, 1000])
def test_batches_hold_every_row_once_within_the_limit(prompts: list[list[int]], max_tokens: int) -> None:
    found = list(batches(prompts, COMPLETIONS, range(6), max_tokens))
    assert sorted(itertools.chain(*found)) == list(range(6))
    for rows in found:
        distinct = {tuple(prompts[row]) for row in rows}
        read = (max(map(len, distinct)) * len(distinct) + len(rows) * max(len(COMPLETIONS[row]) for row in rows)
                if LONG in prompts else len(rows) * max(len(prompts[row]) + len(COMPLETIONS[row]) for row in rows))
        assert len(rows) == 1 or read <= max_tokens
    if max_tokens == 1000:
        assert len(found) == 1


def test_completions_of_a_prompt_stay_together() -> None:
    prompts = [LONG, [*LONG[1:], 3], LONG, [*LONG[1:], 3]]
    completions = [[7], [7, 7, 7], [7, 7, 7], [7]]
    assert list(batches(prompts, completions, range(4), 22)) == [[0, 2], [3, 1]]


def test_who_reads_row_by_row_is_given_no_more_than_it_may_read() -> None:
    prompts, completions = [LONG] * 8, [[7, 8]] * 8
    assert len(list(batches(prompts, completions, range(8), 40, trunk=TRUNKS["llama"]()))) == 1
    found = list(batches(prompts, completions, range(8), 40, trunk=TRUNKS["gemma, with a sliding window"]()))
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]]  # two rows of 17 tokens each
