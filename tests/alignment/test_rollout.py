"""The two engines are one engine: same tokens, same logprobs, before and after weights are pushed."""

from __future__ import annotations

import copy
import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignment.rollout import Engine, Generation, Sampling, make_engine
from alignment.rollout.transformers_engine import TransformersEngine, keep_nucleus, sample
from alignment.rollout.vllm_engine import PushError, VllmEngine
from alignment.stage import Rollout
from data.schema import UserError
from tests.alignment.test_ppo import Shorter, train
from tests.alignment.test_ppo import make as make_trainer
from tests.alignment.tiny_model import perturb, save, tiny_model

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM wheel on this platform")
STOP = [2, 3, 4, 5]
GREEDY = Sampling(max_new_tokens=24, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=24, temperature=1.0)


def prompts(count: int, seed: int = 0, shortest: int = 3, longest: int = 40) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(6, 96) for _ in range(draw.randint(shortest, longest))] for _ in range(count)]


def model_of(tied: bool):  # type: ignore[no-untyped-def]
    return tiny_model(tied=tied, eos=STOP, scale=4, width=64)  # vLLM's CPU attention takes heads of 32 and more


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Both engines, from the same folder."""
    folder = save(model_of(request.param), tmp_path_factory.mktemp("model"))
    engines: dict[str, Engine] = {name: make_engine(folder, Rollout(engine=name, max_num_seqs=16, kv_cache_mb=32),
                                                    max_length=160) for name in ("transformers", "vllm")}
    engines["vllm"].tied = request.param  # type: ignore[attr-defined]
    yield engines
    engines["vllm"].close()


def assert_same(a: list[Generation], b: list[Generation], tolerance: float = 1e-4) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.token_ids == y.token_ids
        assert x.finish_reason == y.finish_reason
        assert x.logprobs == pytest.approx(y.logprobs, abs=tolerance)


@needs_vllm
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(max_new_tokens=24, temperature=0.7, top_p=0.8)],
                         ids=["greedy", "sampled", "nucleus"])
def test_engines_agree_before_and_after_pushes(twins: dict[str, Engine], sampling: Sampling) -> None:
    requests, seeds = prompts(40), list(range(40))
    model = model_of(twins["vllm"].tied)  # type: ignore[attr-defined]
    outputs = []
    for push in range(3):
        for engine in twins.values():
            engine.push(model)
        outputs.append(twins["vllm"].generate(requests, sampling, seeds))
        assert_same(twins["transformers"].generate(requests, sampling, seeds), outputs[-1])
        perturb(model, 0.05, seed=push)
    assert {g.finish_reason for g in outputs[0]} == {"stop", "length"}
    assert outputs[0] != outputs[1] != outputs[2]


@needs_vllm
def test_a_push_that_does_not_arrive_is_noticed(twins: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(twins["vllm"].tied)  # type: ignore[attr-defined]
    twins["vllm"].push(model)
    perturb(model, 0.02, seed=9)
    monkeypatch.setattr(twins["vllm"]._llm, "collective_rpc", lambda *_, **__: None)  # type: ignore[attr-defined]
    with pytest.raises(PushError, match="differ from the model's"):
        twins["vllm"].push(model)


@needs_vllm
def test_a_push_drops_cached_prefixes(twins: dict[str, Engine]) -> None:
    """vLLM's CPU blocks hold 128 tokens: only a longer prompt can be served from a stale cache."""
    long = prompts(2, seed=4, shortest=140, longest=150)
    model = model_of(twins["vllm"].tied)  # type: ignore[attr-defined]
    for push in range(2):
        for engine in twins.values():
            engine.push(model)
        assert_same(*(engine.generate(long * 2, GREEDY, [0] * 4) for engine in twins.values()))
        perturb(model, 0.05, seed=push)


@needs_vllm
def test_vllm_leaves_the_process_as_it_was(twins: dict[str, Engine]) -> None:
    set_num_threads, environment = torch.set_num_threads, dict(os.environ)
    torch.manual_seed(11)
    state, python_state = torch.random.get_rng_state(), random.getstate()
    engine = VllmEngine.__new__(VllmEngine)
    engine.__dict__.update(twins["vllm"].__dict__)
    engine.generate(prompts(3), SAMPLED, [1, 2, 3])
    engine.push(model_of(engine.tied))  # type: ignore[attr-defined]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == python_state
    assert torch.set_num_threads is set_num_threads and torch.set_num_threads.__name__ == "set_num_threads"
    assert dict(os.environ) == environment and "LD_PRELOAD" not in environment


@needs_vllm
def test_ppo_trains_through_vllm(twins: dict[str, Engine]) -> None:
    """Each iteration pushes; the trainer's own log-probabilities then agree with vLLM's."""
    policy = model_of(twins["vllm"].tied)  # type: ignore[attr-defined]
    twins["vllm"].push(policy)
    trainer = make_trainer(Shorter(), policy=policy, engine=twins["vllm"], critic_warmup=0)
    history = train(trainer, 3)
    assert all(metrics["logprob_gap_max"] < 1e-4 for metrics in history)
    assert history[-1]["kl_k3"] > 0


@needs_vllm
@pytest.mark.parametrize("does", ["stop", "warn"])
def test_ppo_is_told_of_a_push_that_vllm_did_not_take(twins: dict[str, Engine], does: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    policy = model_of(twins["vllm"].tied)  # type: ignore[attr-defined]
    twins["vllm"].push(policy)
    trainer = make_trainer(Shorter(), policy=policy, engine=twins["vllm"], critic_warmup=0, num_prompts=8,
                           minibatch_size=8, learning_rate=1e-2, alarms={"push": does})
    train(trainer, 1)
    monkeypatch.setattr(twins["vllm"]._llm, "collective_rpc", lambda *_, **__: None)  # type: ignore[attr-defined]
    if does == "stop":
        with pytest.raises(PushError, match="differ from the model's"):
            train(trainer, 1)
    else:
        [second] = train(trainer, 1)
        assert second["push_failed"] == 1 and second["logprob_gap_mean"] > 1e-3  # drawn with the weights from before


def transformers_engine(**keywords: object) -> TransformersEngine:
    return TransformersEngine(Path("unused"), max_length=160, model=model_of(True), **keywords)  # type: ignore[arg-type]


def assert_order_and_company_do_not_matter(engine: Engine) -> None:
    requests, seeds = prompts(24), list(range(100, 124))
    together = engine.generate(requests, SAMPLED, seeds)
    backwards = engine.generate(requests[::-1], SAMPLED, seeds[::-1])[::-1]
    alone = [engine.generate([p], SAMPLED, [s])[0] for p, s in zip(requests[:4], seeds, strict=False)]
    assert_same(together, backwards, 1e-5)
    assert_same(together[:4], alone, 1e-5)
    assert engine.generate(requests, SAMPLED, seeds) == together
    other = engine.generate(requests, SAMPLED, [seed + 1 for seed in seeds])
    assert sum(a.token_ids != b.token_ids for a, b in zip(together, other, strict=True)) > 20


@needs_vllm
def test_vllm_completion_depends_on_its_prompt_and_seed_alone(twins: dict[str, Engine]) -> None:
    twins["vllm"].push(model_of(twins["vllm"].tied))  # type: ignore[attr-defined]
    assert_order_and_company_do_not_matter(twins["vllm"])


def test_completion_depends_on_its_prompt_and_seed_alone() -> None:
    assert_order_and_company_do_not_matter(transformers_engine(max_num_seqs=16))


def test_samples_of_one_prompt_share_its_reading_and_nothing_else() -> None:
    engine = transformers_engine(max_num_seqs=64)
    short, long = prompts(1, shortest=5, longest=5)[0], prompts(1, shortest=30, longest=30)[0]
    requests, seeds = [short, long] * 6, list(range(12))
    assert_same(engine.generate(requests, SAMPLED, seeds),
                [engine.generate([p], SAMPLED, [s])[0] for p, s in zip(requests, seeds, strict=True)], 1e-5)


def test_tokens_and_logprobs_are_those_of_the_model() -> None:
    engine = transformers_engine()
    for sampling in (SAMPLED, Sampling(max_new_tokens=24, temperature=0.5)):
        for prompt, out in zip(prompts(8), engine.generate(prompts(8), sampling, range(8)), strict=True):
            with torch.no_grad():
                logits = engine.model(torch.tensor([prompt + out.token_ids])).logits[0, len(prompt) - 1:-1]
            logprobs = (logits / sampling.temperature).log_softmax(-1)
            expected = logprobs.gather(-1, torch.tensor(out.token_ids)[:, None])[:, 0].tolist()
            assert out.logprobs == pytest.approx(expected, abs=1e-5)


def test_greedy_equals_transformers_generate() -> None:
    engine = transformers_engine()
    for prompt, out in zip(prompts(6), engine.generate(prompts(6), GREEDY, [0] * 6), strict=True):
        expected = engine.model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
                                         do_sample=False, max_new_tokens=24)[0, len(prompt):].tolist()
        assert out.token_ids == expected


def test_eos_is_kept_and_names_the_finish_reason() -> None:
    outputs = transformers_engine().generate(prompts(40), SAMPLED, range(40))
    for output in outputs:
        assert (output.token_ids[-1] in STOP) == (output.finish_reason == "stop")
        assert not set(output.token_ids[:-1]) & set(STOP)
        assert output.finish_reason == "stop" or len(output.token_ids) == 24
    assert {output.finish_reason for output in outputs} == {"stop", "length"}


def test_a_completion_ends_where_the_positions_end() -> None:
    engine = transformers_engine()
    [output] = engine.generate(prompts(1, shortest=155, longest=155), GREEDY, [0])
    assert len(output.token_ids) <= 5
    for bad in ([], [7] * 160):
        with pytest.raises(UserError, match="takes prompts of 1 to 159"):
            engine.generate([bad], GREEDY, [0])


def test_generation_leaves_global_randomness_and_training_mode_alone() -> None:
    engine = transformers_engine()
    engine.model.train()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    engine.generate(prompts(4), SAMPLED, range(4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert engine.model.training


def test_the_transformers_engine_shares_the_pushed_model_or_casts_a_copy() -> None:
    model = model_of(True)
    engine = TransformersEngine(Path("unused"), max_length=160, model=model)
    assert engine.model is model
    half = TransformersEngine(Path("unused"), max_length=160, model=copy.deepcopy(model), dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16 and half.stop_ids == STOP
    assert half.model.model.rotary_emb.inv_freq.dtype == torch.float32  # as in a model loaded in 16 bits
    half.generate(prompts(2), GREEDY, [0, 0])


def test_sampled_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(20000, 4)
    generators = [torch.Generator().manual_seed(seed) for seed in range(20000)]
    sampling = Sampling(max_new_tokens=1, temperature=2.0)
    chosen, logprobs = sample(logits, sampling, generators)
    expected = (logits[0] / 2).softmax(-1)
    assert torch.bincount(chosen, minlength=4) / 20000 == pytest.approx(expected, abs=0.02)
    assert torch.allclose(logprobs.exp(), expected[chosen])


def test_the_nucleus_is_the_smallest_set_of_its_mass() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    assert keep_nucleus(logits, 0.75).isfinite().tolist() == [[False, True, True, False]]
    assert keep_nucleus(logits, 0.01).isfinite().tolist() == [[False, True, False, False]]


def test_vllm_sleeps_while_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken before it generates or takes weights, and put to sleep after it has generated."""
    told: list[str] = []

    class Llm:
        def __getattr__(self, name: str) -> Callable[..., object]:
            return lambda *arguments, **keywords: told.append(name) or True  # type: ignore[func-returns-value]

        def generate(self, requests: list[object], *arguments: object, **keywords: object) -> list[object]:
            told.append("generate")
            return []

    engine = VllmEngine.__new__(VllmEngine)
    engine.max_length, engine.sleep, engine.asleep, engine.stop_ids = 160, True, False, STOP
    engine._llm, engine._vllm = Llm(), SimpleNamespace(SamplingParams=dict)
    monkeypatch.setattr(engine, "_verify", lambda model: told.append("verify"))
    engine.generate([[7]], GREEDY, [0])
    engine.push(model_of(False))
    engine.generate([[7]], GREEDY, [0])
    engine.generate([[7]], GREEDY, [0])
    assert told == ["generate", "sleep", "wake_up", "collective_rpc", "reset_prefix_cache", "verify",
                    "generate", "sleep", "wake_up", "generate", "sleep"]
