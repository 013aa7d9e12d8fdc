"""The tests of the losses can fail: each small mistake in alignment/losses.py turns at least one of them red."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alignment import losses
from tests.alignment import test_losses

SOURCE = inspect.getsource(losses)

MUTATIONS = {
    "gae: next value not discounted": ("+ gamma * next_values", "+ next_values"),
    "gae: sign of the value": ("gamma * next_values - values[:, t]", "gamma * next_values + values[:, t]"),
    "gae: lambda dropped": ("gamma * lam * following", "gamma * following"),
    "gae: value of the wrong place": ("next_values = values[:, t]", "next_values = values[:, t - 1]"),
    "gae: values past the end count": ("rewards * mask, values * mask", "rewards * mask, values"),
    "gae: returns without values": ("return advantages, advantages + values", "return advantages, advantages"),
    "terminal reward one token early": ("(rows, lengths - 1)", "(rows, (lengths - 2).clamp_min(0))"),
    "penalty rewarded": ("rewards = -penalties", "rewards = penalties"),
    "whiten: padding counts": ("kept = values[mask]", "kept = values.flatten()"),
    "whiten: no mean": ("(values - mean) *", "values *"),
    "masked mean over all places": ("mask.sum() if count is None else count", "mask.numel()"),
    "ratio upside down": ("(logprobs - old_logprobs).clamp", "(old_logprobs - logprobs).clamp"),
    "ratio unbounded": (".clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()", ".exp()"),
    "policy loss: sign": ("torch.maximum(-ratio * advantages,", "torch.maximum(ratio * advantages,"),
    "policy loss: clip dropped": ("-ratio.clamp(1 - clip_low, 1 + clip_high) * advantages", "-ratio * advantages"),
    "policy loss: optimistic side": ("losses = torch.maximum(-ratio", "losses = torch.minimum(-ratio"),
    "policy loss: one range for both": ("1 + clip_high) * advantages", "1 + clip_low) * advantages"),
    "dual clip on good tokens": ("advantages < 0, torch.minimum", "advantages > 0, torch.minimum"),
    "clip fraction: wrong side": ("(advantages > 0) & (ratio > 1", "(advantages < 0) & (ratio > 1"),
    "value loss: no half": ("return 0.5 * losses", "return losses"),
    "value loss: optimistic": ("torch.maximum(losses, (near", "torch.minimum(losses, (near"),
    "value loss: clip dropped": ("(values - old_values).clamp(-clip_range, clip_range)", "(values - old_values)"),
    "kl: direction": ("x = (reference_logprobs - logprobs)", "x = (logprobs - reference_logprobs)"),
    "kl: k3 without its correction": ("x.exp() - 1 - x", "x.exp() - 1"),
    "kl: k2 without its half": ("0.5 * x.square()", "x.square()"),
    "group advantages: no mean": ("scores - scores.mean(dim=1, keepdim=True)) / (", "scores) / ("),
    "group advantages: no deviation": ("/ (scores.std(dim=1, keepdim=True) + eps)", ""),
    "group advantages: over questions": ("scores.std(dim=1, keepdim=True)", "scores.std(dim=0, keepdim=True)"),
    "process advantages: no mean": ("centred = (steps - mean) * ends", "centred = steps * ends"),
    "process advantages: mean over tokens": ("/ count.clamp_min(1)\n", "/ ends[0].numel()\n"),
    "process advantages: where no step ends": ("centred = (steps - mean) * ends", "centred = steps - mean"),
    "process advantages: of earlier steps": ("centred.flip(-1).cumsum(-1).flip(-1)", "centred.cumsum(-1)"),
    "process advantages: deviation of steps alone": ("(scores.var(dim=1)[:, None, None] + variance)", "variance"),
    "process advantages: outcome left out": (
        "(scores - scores.mean(dim=1, keepdim=True))[:, :, None] / deviation + following", "following"),
    "importance: upside down": ("importance_ratio(old_logprobs, engine_logprobs)",
                                "importance_ratio(engine_logprobs, old_logprobs)"),
    "importance: no cap": (".clamp(max=cap)", ""),
    "exact kl: of the reference": ("return (ours.exp() * (ours - theirs)).sum(-1)\n        ours, places",
                                   "return (theirs.exp() * (theirs - ours)).sum(-1)\n        ours, places"),
    "exact kl: the others left out": ("+ rest * (rest / reference_rest).log()", ""),
    "exact kl: temperature of one alone": ("theirs = (reference_head(others).float() / temperature)",
                                           "theirs = (reference_head(others).float())"),
    "adapted coefficient: wrong way": ("error = min(max(kl / target - 1", "error = -min(max(kl / target - 1"),
    "adapted coefficient: unbounded": ("min(max(kl / target - 1, -0.2), 0.2)", "kl / target - 1"),
    "leave one out: not unbiased": ("* (count / (count - 1))", ""),
    "explained variance: sign": ("1 - (returns - values)", "1 - (returns + values)"),
    "entropy: sign": ("return -(logprobs.exp()", "return (logprobs.exp()"),
    "logprobs: temperature multiplies": ("logits = logits / temperature", "logits = logits * temperature"),
    "logprobs: sign": ("return -F.cross_entropy", "return F.cross_entropy"),
}


def cases(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments of every case of a parametrised test."""
    columns = []
    for mark in getattr(function, "pytestmark", []):
        names, values = mark.args
        names = [names] if isinstance(names, str) else list(names)
        columns.append([dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values])
    for combination in itertools.product(*columns):
        yield {name: value for part in combination for name, value in part.items()}


def some_test_fails(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(test_losses, "losses", module)
    for name, function in vars(test_losses).items():
        if name.startswith("test_"):
            for arguments in cases(function):
                try:
                    function(**arguments)
                except (AssertionError, RuntimeError, pytest.fail.Exception):
                    return True
    return False


def test_the_losses_as_they_are_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not some_test_fails(losses, monkeypatch)


@pytest.mark.parametrize("mistake", MUTATIONS)
def test_a_mistake_turns_a_test_red(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = MUTATIONS[mistake]
    assert SOURCE.count(before) == 1, "the mutation no longer fits the source"
    path = tmp_path / "mutant.py"
    path.write_text(SOURCE.replace(before, after), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None and spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    assert some_test_fails(mutant, monkeypatch)
