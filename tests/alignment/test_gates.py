"""Conditions: how they are read, and what closes a gate."""

import math

import pytest

from alignment.gates import Gate, check, parse
from data.schema import UserError

METRICS = {"loss": 0.5, "accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}, "ppo.greedy": {"value": 0.4}}


@pytest.mark.parametrize(("text", "gate"), [
    ("accuracy >= 0.7", Gate("accuracy", ">=", 0.7)),
    ("loss<1e-3", Gate("loss", "<", 1e-3)),
    ("ppo.greedy > -.5", Gate("ppo.greedy", ">", -0.5)),
    ("ppo - sft.greedy > 0", Gate("ppo - sft.greedy", ">", 0.0)),
])
def test_parse(text: str, gate: Gate) -> None:
    assert parse(text, where="x.require") == gate


@pytest.mark.parametrize("text", ["accuracy", ">= 0.7", "accuracy >> 2", "accuracy >= high", "accuracy = 1", ""])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^sft\.require: .*is not a condition.*accuracy >= 0\.7"):
        parse(text, where="sft.require")


@pytest.mark.parametrize(("condition", "holds"), [
    ("accuracy >= 0.7", True), ("accuracy > 0.7", False), ("accuracy.low >= 0.6", True), ("accuracy.low > 0.65", False),
    ("accuracy.n >= 51", False), ("loss < 0.5", False), ("loss <= 0.5", True), ("ppo.greedy == 0.4", True),
    ("sft.loss != 0.5", False), ("acuracy >= 0", False),
])
def test_check(condition: str, holds: bool) -> None:
    assert (check("sft", [condition], METRICS) == []) is holds


def test_nan_holds_nothing() -> None:
    assert check("sft", ["loss >= 0"], {"loss": math.nan}) and check("sft", ["loss < 0"], {"loss": math.nan})


def test_the_evidence_is_said() -> None:
    closed = check("sft", ["accuracy >= 0.9"], METRICS)[0]
    assert closed.value == 0.7
    assert str(closed) == ("gate closed at stage sft: required accuracy >= 0.9, found accuracy = 0.7 "
                           "(95% interval 0.6 to 0.8), n = 50")
    assert "did you mean accuracy?" in str(check("sft", ["acuracy >= 0"], METRICS)[0])
