"""What the benchmarks count and write; what they time is no test's matter."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench import controller
from tests.bench.desk import FIRST, JUDGED, NEXT, SHOWN, first_pages, judgments, table
from tests.bench.floor import forward, iteration
from tests.bench.packing import computed
from tests.bench.ppo import rows, write_docs
from tests.bench.ppo_case import LIMIT, PROMPT, RAGGED, SIZES, Case
from tests.data.annotate.desk_opened import completions, look, opened

SMALL = SIZES["0.7M"]


def test_sizes_are_those_of_the_models() -> None:
    with torch.device("meta"):  # no weights
        assert LlamaForCausalLM(LlamaConfig(**SMALL.config())).num_parameters() == SMALL.parameters
    assert [round(size.parameters / 1e6, 1) for size in SIZES.values()] == [0.7, 103.8]


def test_ragged_completions_end_at_their_share_of_the_limit() -> None:
    for size in SIZES.values():
        share, draw = len(Case(size, ragged=True).ends) / size.vocabulary, random.Random(0)
        lengths = [next((place + 1 for place in range(LIMIT) if draw.random() < share), LIMIT) for _ in range(20000)]
        assert statistics.fmean(lengths) == pytest.approx(RAGGED * LIMIT, rel=0.05)
    case = Case(SMALL, ragged=True, precision="bf16")
    assert Case.of_json(case.to_json()) == case and Case(SMALL, ragged=False).ends == []
    assert not set(case.ends) & {token for prompt in case.prompts(1) for token in prompt}


def test_the_floor_is_two_operations_a_weight_and_token() -> None:
    size, lengths = SIZES["104M"], [LIMIT] * 16
    tokens = 16 * (PROMPT + LIMIT)
    attention = 2 * size.layers * size.width * 16 * (PROMPT + LIMIT)**2
    assert forward(size, lengths, head=False) == 2 * size.body * tokens + attention
    head = 2 * size.vocabulary * size.width * 16 * LIMIT
    assert forward(size, lengths, head=True) - forward(size, lengths, head=False) == head
    parts = iteration(size, lengths)
    assert parts["update"] == 3 * (parts["generate"] + parts["score"])
    assert iteration(size, lengths, epochs=4)["update"] == 4 * parts["update"]


def test_what_is_computed_is_the_longest_row_of_each_batch() -> None:
    assert computed([3, 1, 2, 5], 2) == 6 + 10 and computed([3, 1, 4], 2) == 6 + 4


def test_the_desks_waits_are_those_of_a_server_that_answers(tmp_path: Path) -> None:
    opened(tmp_path, completions(5)).close()
    waited = {FIRST: first_pages(tmp_path / "annotations.db", 1), **judgments(tmp_path / "annotations.db", 3)}
    assert {name: len(seconds) for name, seconds in waited.items()} == {FIRST: 1, NEXT: 3, SHOWN: 3, JUDGED: 3}
    assert len(look(tmp_path / "annotations.db").judgments) == 3
    assert table({FIRST: [0.5, 1.5, 0.75], NEXT: [0.002]})[2:] == [
        "| the command to the first page | 3 | 750 ms | 500 ms | 1,500 ms |",
        "| the next task | 1 | 2 ms | 2 ms | 2 ms |"]


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- ppo:begin -->\nold\n<!-- ppo:end -->\nb\n<!-- packing:begin -->\n<!-- packing:end -->\n")
    write_docs(page, "| new |")
    write_docs(page, "| count |", mark="packing")
    assert page.read_text().splitlines() == [
        "a", "<!-- ppo:begin -->", "| new |", "<!-- ppo:end -->", "b", "<!-- packing:begin -->", "| count |",
        "<!-- packing:end -->"]
    each = {"seconds": 2.0, "all_seconds": [1.0, 3.0], "generate": 0.5, "peak_mib": 800.0}
    found = {"vllm": each | {"push": 0.02, "over_bare": 1.02}, "trl": each | {"seconds": 4.0},
             "floor": {"seconds": 1.6}}
    ours, theirs = rows(Case(SMALL, ragged=True), found)
    assert "| 0.7M | ragged | fp32 | vllm | 2 (1 to 3) | 32 | 2.00 | 1.25 | 0.5 | 800 |" in ours
    assert "engine 1.020 x `LLM.generate`, push 1.0%" in ours and "| 1.00 | 2.50 |" in theirs


def test_what_the_controller_adds_is_what_no_stage_took() -> None:
    made = [(whole, {"stages": {"sft": {"seconds": 20.0}, "ppo": {"seconds": 30.0}}}) for whole in (58.0, 90.0, 56.0)]
    assert [line.split(" | ")[-1] for line in controller.table(made, [2.0, 2.5, 9.0])[2:]] == [
        "58.0 |", "50.0 |", "8.0 |", "2.5 |", "2.75 |"]
