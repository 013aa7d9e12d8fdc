"""A group of one gives back what it was given; what several are given is told apart again."""

from __future__ import annotations

import torch

from alignment import group
from alignment.experience import Batch
from alignment.group import ONE, Group, buckets
from alignment.rollout import Generation
from alignment.rollout.shared import as_generations, as_numbers
from alignment.shared_reward import SharedReward, as_rows
from alignment.shared_reward import as_numbers as scores_as_numbers
from alignment.shares import SHARE, Part, ShareCollator, parts
from data.schema import Completion, Question
from reward import Scores, Span


def test_one_process_is_a_group_of_one() -> None:
    values = torch.tensor([1.0, 2.0])
    ONE.add([values])
    assert values.tolist() == [1.0, 2.0] and ONE.mine("abc") == ["a", "b", "c"]
    assert ONE.any(True) and not ONE.any(False) and ONE.gather([1.0, 2.0]) == [[1.0, 2.0]]
    assert ONE.share_out([1, 2], lambda piece: [piece, 0.5]) == [[1, 0.5], [2, 0.5]]
    parameter = torch.nn.Parameter(values)
    ONE.add_gradients([parameter])
    assert parameter.grad is None


def test_shares_are_dealt_in_turn_and_together_are_all() -> None:
    shares = [Group(rank, 3).mine(range(8)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    batch = Batch.of([[1] * n for n in range(1, 9)], [[2] * 3] * 8, torch.device("cpu"))
    dealt = [Group(rank, 2).mine(batch.micro_batches(range(8), 24)) for rank in range(2)]
    assert sorted(row for share in dealt for rows in share for row in rows) == list(range(8))


def test_tensors_are_summed_in_buckets_of_one_type() -> None:
    tensors = [torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.zeros(4), torch.zeros(9), torch.zeros(1)]
    kept, group.BUCKET = group.BUCKET, 8
    try:
        found = [[tensor.numel() for tensor in bucket] for bucket in buckets(tensors)]
    finally:
        group.BUCKET = kept
    assert found == [[3, 4], [2], [9], [1]]


def test_generations_and_scores_travel_as_numbers() -> None:
    generations = [Generation([5, 151935, 2], [-0.1, -2.5e-7, -30.25], "stop"), Generation([7], [-1 / 3], "length")]
    assert as_generations(as_numbers(generations)) == generations
    scores = Scores([0.5, -1 / 3], spans=[[Span(0, 4, 0.25), Span(7, 9, -1.0)], []])
    assert as_rows(scores_as_numbers(scores)) == list(zip(scores.total, scores.spans, strict=True))
    assert as_rows(scores_as_numbers(Scores([1.0]))) == [(1.0, [])]


def test_a_shared_reward_keeps_a_questions_completions_together() -> None:
    seen = []

    def reward(questions: object, completions: list[Completion]) -> Scores:
        seen.append([completion.question_id for completion in completions])
        return Scores([float(len(completion.text)) for completion in completions])

    asked = [Question(id=name, source="file", kind="any", language="en", prompt="", steps=(), answer="",
                      operand_key=name) for name in "aabbb"]
    given = [Completion(question_id=each.id, sample=row, text="x" * row, finish_reason="stop", token_ids=(2,),
                        logprob=0.0) for row, each in enumerate(asked)]
    found = SharedReward("reward own", reward, ONE)(asked, given)
    assert found.total == [0.0, 1.0, 2.0, 3.0, 4.0] and found.spans == []
    assert seen == [["a", "a", "b", "b", "b"]]


def collate(rows: list[dict[str, int]]) -> dict[str, object]:
    return {"rows": [row["number"] for row in rows], "labels": torch.tensor([row["number"] for row in rows])}


def test_a_processes_means_weighted_by_its_part_are_the_mean_of_all() -> None:
    """Also over two forward passes of an optimizer step, where one process has no row in the second."""
    steps = [[{"number": number} for number in numbers] for numbers in ([1, 2, 3, 4], [5])]
    rows = [row["number"] for step in steps for row in step]
    total = tokens = 0.0
    for rank in range(2):
        collator = ShareCollator(collate, Group(rank, 2), lambda row: row["number"])
        batches = [collator(step) for step in steps]
        for batch, part in zip(batches, parts(batches, Group(rank, 2)), strict=True):
            assert SHARE not in batch
            means = [sum(batch["rows"]) / len(batch["rows"]), sum(n * n for n in batch["rows"]) / sum(batch["rows"])]
            total += part.rows * means[0] / 2 / 2  # the trainer divides by the passes, the processes by their number
            tokens += part.tokens * means[1] / 2 / 2
    assert total == sum(rows) / 5
    assert tokens == sum(n * n for n in rows) / sum(rows)
    assert parts([{}], ONE) == [] and Part() == Part(1.0, 1.0)


def test_where_labels_say_what_counts_an_empty_share_counts_nothing() -> None:
    empty = ShareCollator(collate, Group(1, 2), None)([{"number": 7}])
    assert empty["labels"].tolist() == [-100] and SHARE not in empty
    assert ShareCollator(collate, Group(0, 2), None)([{"number": 7}])["labels"].tolist() == [7]
