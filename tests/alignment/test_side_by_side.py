"""Completions by several processes are those of one; a process that fails is told of, and none is left behind."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alignment.rollout import Generation, Sampling, TransformersEngine
from alignment.rollout.side_by_side import LEAST, parts_of, side_by_side
from tests.alignment.test_rollout import GREEDY, SAMPLED, assert_same, model_of, prompts
from tests.alignment.tiny_model import perturb, save

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture
def others() -> set[str]:
    """What tests before this one have left running beside it."""
    return set(children())


def made_of(part: list[int]) -> list[Generation]:
    """Generations that tell which process made them."""
    return [Generation([place, os.getpid()], [-0.1 * place, -1e-300], "stop" if place % 2 else "length")
            for place in part]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(max_new_tokens=24, temperature=0.7, top_p=0.8)],
                         ids=["greedy", "sampled", "nucleus"])
def test_two_processes_say_what_one_says(sampling: Sampling, tmp_path: Path, others: set[str]) -> None:
    model = model_of(tied=True)
    engine = TransformersEngine(save(model, tmp_path), max_length=160, max_num_seqs=40, model=model)
    requests, seeds = [prompt for prompt in prompts(50) for _ in range(2)], list(range(100))
    for seed in range(2):
        beside = engine.generate(requests, sampling, seeds)
        torch.set_num_threads(1)
        assert_same(engine.generate(requests, sampling, seeds), beside)
        torch.set_num_threads(2)
        perturb(model, 0.05, seed=seed)  # the next call's processes have the weights as they are then
    assert set(children()) <= others


def test_each_part_is_made_by_a_process_and_comes_back_to_the_last_bit(others: set[str]) -> None:
    parts = [[0, 3, 4], [1, 2], [5]]
    made = side_by_side(made_of, parts)
    assert [[each.token_ids[0] for each in part] for part in made] == parts
    assert len({each.token_ids[1] for part in made for each in part}) == 3
    assert made[0][0].token_ids[1] == os.getpid()
    assert [each.logprobs for part in made for each in part] == [each.logprobs for part in parts
                                                                 for each in made_of(part)]
    assert torch.get_num_threads() == 2 and set(children()) <= others


def test_like_prompts_stay_together_and_few_are_not_worth_a_process() -> None:
    few, many = prompts(2 * LEAST - 1), [prompt for prompt in prompts(LEAST) for _ in range(4)]
    assert parts_of(few, CPU) == [list(range(len(few)))]
    first, second = parts_of(many, CPU)
    assert sorted(first + second) == list(range(len(many))) and len(first) == len(second)
    assert not {tuple(many[place]) for place in first} & {tuple(many[place]) for place in second}
    assert len(parts_of([[7, 8]] * 99, CPU)) == 1


def test_no_fork_on_a_gpu_with_one_thread_or_beside_another_thread() -> None:
    requests, found = prompts(64), []
    assert len(parts_of(requests, torch.device("cuda"))) == 1
    beside = threading.Thread(target=lambda: found.append(parts_of(requests, CPU)))
    beside.start()
    beside.join()
    assert len(found[0]) == 1
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # which PPO's prefetching has
        pool.submit(int).result()
        assert len(parts_of(requests, CPU)) == 1
    assert len(parts_of(requests, CPU)) == 2
    torch.set_num_threads(1)
    assert len(parts_of(requests, CPU)) == 1


@pytest.mark.parametrize("killed", [False, True], ids=["raises", "killed"])
def test_a_process_that_fails_is_told_of(killed: bool, capfd: pytest.CaptureFixture[str], others: set[str]) -> None:
    mine = os.getpid()

    def work(part: list[int]) -> list[Generation]:
        if os.getpid() != mine:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no such token")
        return made_of(part)

    with pytest.raises(RuntimeError, match="was ended by SIGKILL" if killed else "ended with exit code 1"):
        side_by_side(work, [[0], [1]])
    assert killed or "no such token" in capfd.readouterr().err
    assert torch.get_num_threads() == 2 and set(children()) <= others


def test_where_this_process_fails_the_others_are_ended(others: set[str]) -> None:
    mine = os.getpid()

    def work(part: list[int]) -> list[Generation]:
        if os.getpid() == mine:
            raise KeyboardInterrupt
        threading.Event().wait()
        return []

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, [[0], [1], [2]])
    assert torch.get_num_threads() == 2 and set(children()) <= others
