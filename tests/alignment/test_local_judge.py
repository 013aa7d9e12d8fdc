"""A judge by the rollout engine: vLLM holds it to its schema, transformers is refused or writes freely."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.local_judge import LocalModel
from alignment.models import load_policy, load_tokenizer
from alignment.origin import EMBEDDED
from alignment.stage import Rollout, Stage
from alignment.stages import judge
from data.chat import completion_ids, render_prompt
from data.rows import read_rows
from data.schema import UserError, Verdict
from reward.judge import Reply, Request, read_reply, schema_of
from tests.alignment.judged import sampled
from tests.alignment.stage_made import make_stage, result

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM wheel on this platform")
SCHEMA = schema_of(correctness=["correct", "wrong"])


def stage_of(folder: Path, given: Path, engine: str, **config: Any) -> Stage:
    stage = make_stage(folder, "judge", inputs={"completions": given, "model": EMBEDDED}, **({
        "judge": "local", "model": "base_tiny", "max_tokens": 48, "cache": str(folder / "cache"),
        "max_unreadable": 1.0} | config))
    return dataclasses.replace(stage, rollout=Rollout(engine=engine, kv_cache_mb=64))


def request(text: str, **more: Any) -> Request:
    return Request([{"role": "user", "content": text}], **({"schema": SCHEMA} | more))


def asked(model: LocalModel, *requests: Request) -> list[Reply]:
    found = dict(model(requests))
    return [found[place] for place in range(len(requests))]


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """One engine for all tests of guided decoding."""
    folder = tmp_path_factory.mktemp("guided")
    model = LocalModel(stage_of(folder, folder, "vllm", max_length=512))
    yield model
    model.close()


@needs_vllm
def test_vllm_holds_the_model_to_its_schema(guided: LocalModel) -> None:
    """The embedded model has never seen JSON; what it writes to its end fits the schema all the same."""
    schema = schema_of(correctness=["correct", "wrong"])
    schema["properties"]["justification"] = {"type": "string", "enum": ["none"]}  # so that it comes to its end
    replies = asked(guided, *(request(f"Is {number} + 1 = 3?", schema=schema) for number in range(4)))
    assert all(set(json.loads(reply.text)) == {"justification", "correctness"} for reply in replies)
    assert all(json.loads(reply.text)["correctness"] in ("correct", "wrong") for reply in replies)
    assert all(0 < reply.completion_tokens <= 48 and reply.prompt_tokens > 0 for reply in replies)


@needs_vllm
def test_both_engines_give_the_same_share_of_yes(guided: LocalModel, tmp_path: Path) -> None:
    plain = LocalModel(stage_of(tmp_path, tmp_path, "transformers", tasks=["outcome_token"]))
    requests = [request(text, schema=None, options=("Yes", "No")) for text in ("1 + 1 = 2?", "Revenue?", "净利率？")]
    model, tokenizer = load_policy(EMBEDDED), load_tokenizer(EMBEDDED)
    ids = [completion_ids(tokenizer, option, finished=False)[0] for option in ("Yes", "No")]
    for one, other, each in zip(asked(guided, *requests), asked(plain, *requests), requests, strict=True):
        logits = model(torch.tensor([render_prompt(tokenizer, each.messages)])).logits[0, -1, ids]
        expected = logits.softmax(-1)[0].item()
        assert one.probabilities["Yes"] == pytest.approx(expected, abs=1e-3)
        assert other.probabilities["Yes"] == pytest.approx(expected, abs=1e-5)
        assert sum(other.probabilities.values()) == pytest.approx(1.0)


def test_transformers_is_refused_where_a_schema_is_asked_for(tmp_path: Path) -> None:
    for structured in ("json_schema", "json_object"):
        with pytest.raises(UserError, match=rf"structured={structured}.*set rollout=vllm and structured=json_sch"):
            LocalModel(stage_of(tmp_path, tmp_path, "transformers", structured=structured))


def test_transformers_may_write_freely_and_what_is_no_verdict_is_counted(tmp_path: Path) -> None:
    sampled(tmp_path / "given", questions=1)
    stage = stage_of(tmp_path / "judge", tmp_path / "given", "transformers", structured="none", max_tokens=4,
                     tasks=["outcome"])
    judge.run(stage)
    assert result(stage)["unreadable.outcome"] == 2  # the third one was truncated, and is wrong without asking
    assert [row.sample for row in read_rows(stage.output / "verdicts.jsonl", Verdict)] == [2]
    with pytest.raises(UserError, match="2 replies of base_tiny are no verdict"):
        judge.run(stage_of(tmp_path / "strict", tmp_path / "given", "transformers", structured="none", max_tokens=4,
                           tasks=["outcome"], max_unreadable=0.05))


def test_a_token_judge_runs_by_the_plain_engine(tmp_path: Path) -> None:
    sampled(tmp_path / "given", questions=2)
    stage = stage_of(tmp_path / "judge", tmp_path / "given", "transformers", tasks=["outcome_token"])
    judge.run(stage)
    rows = read_rows(stage.output / "verdicts.jsonl", Verdict)
    assert len(rows) == 6 and all(0 <= row.score <= 1 for row in rows if row.score is not None)
    assert {row.judge for row in rows} == {"local"} and result(stage)["replies"] == 4


def test_what_is_too_long_for_the_model_is_no_verdict(tmp_path: Path) -> None:
    model = LocalModel(stage_of(tmp_path, tmp_path, "transformers", tasks=["outcome_token"], max_length=64))
    long, short = asked(model, *(request(text, schema=None, options=("Yes", "No")) for text in ("why? " * 99, "why?")))
    assert long == Reply("", {}, long.prompt_tokens, 0) and long.prompt_tokens > 64 and short.probabilities
    with pytest.raises(ValueError, match="the reply is empty"):
        read_reply(long.text, SCHEMA)
