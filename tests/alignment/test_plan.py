"""Edges of a chain: order, roles, types, cycles, and parts of it."""

import pytest

from alignment.kinds import Dpo, Evaluate, Judge, Pairs, Ppo, Pretrain, Sample, Sft, StageConfig
from alignment.plan import ancestors, chosen, dependents, named_stages, order
from data.schema import UserError


def chain() -> dict[str, StageConfig]:
    return {
        "evaluate": Evaluate(kind="evaluate", inputs={"sft": "sft", "dpo": "dpo"}),  # said first, runs last
        "sft": Sft(kind="sft", inputs={"model": "base"}),
        "sample": Sample(kind="sample", inputs={"policy": "sft"}),
        "judge": Judge(kind="judge", inputs={"completions": "sample"}),
        "pairs": Pairs(kind="pairs", inputs={"completions": "sample", "verdicts": "judge"}),
        "dpo": Dpo(kind="dpo", inputs={"policy": "sft", "pairs": "pairs"}),
    }


def test_inputs_come_first() -> None:
    assert [stage.name for stage in order(chain())] == ["sft", "sample", "judge", "pairs", "dpo", "evaluate"]


@pytest.mark.parametrize(("name", "config", "message"), [
    ("sft", Sft(kind="sft", inputs={"model": "bas"}), r"inputs\.model: no stage is called 'bas'; did you mean base"),
    ("sft", Sft(kind="sft", inputs={"modle": "base"}), r"sft\.inputs\.modle: .*did you mean model"),
    ("sft", Sft(kind="sft"), r"sft\.inputs: role 'model' \(model\) is not given.*base"),
    ("sft", Sft(kind="sft", inputs={"model": "judge"}), r"'judge' makes verdicts, but this role takes model"),
    ("sft", Sft(kind="sft", inputs={"model": "dpo"}), r"feed each other in a circle"),
    ("sft", Sft(kind="sft", inputs={"model": "base"}, from_verdicts=True), r"needs the inputs completions and verdi"),
    ("sft", Sft(kind="sft", inputs={"model": "base"}, require=["x ~ 1"]), r"sft\.require: 'x ~ 1' is not a condition"),
    ("sft", Pretrain(kind="pretrain"), r"sft\.initial=random to train a new model"),
    ("sft", Pretrain(kind="pretrain", initial="random", inputs={"model": "base"}), r"starts from no model"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, reward_weights={"reward_model": 1.0}), r"uses the reward model"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, reward_weights={"rule_step": 1.0}),
     r"dpo\.reward_weights\.rule_step: no reward is called that, nor named in dpo\.rewards; did you mean rule_steps\?"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, reward_weights={"shortr": 0.0}, rewards={"shorter": "r.py:f"}),
     r"did you mean shorter\?"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, reward_weights={"zzz": 1.0}),
     r"there is rule, rule_steps, reward_model"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, reward_weights={"judge": 0.0}, judge_model="m"),
     r"dpo\.reward_weights\.judge: which judge\? Set dpo\.judge_model, its name, and dpo\.judge_url"),
    ("dpo", Ppo(kind="ppo", inputs={"policy": "sft"}, rewards={"shorter": "r.py:f"}),
     r"dpo\.rewards\.shorter has no weight; write dpo\.reward_weights\.shorter=1\.0, or 0"),
    ("evaluate", Evaluate(kind="evaluate"), r"at least one input"),
    ("evaluate", Evaluate(kind="evaluate", inputs={"sft": "sft"}, compare=["dpo - sft"]), r"'dpo' is no policy of"),
    ("evaluate", Evaluate(kind="evaluate", inputs={"sft": "sft"}, compare=["sft"]), r"must be 'POLICY - POLICY'"),
    ("evaluate", Evaluate(kind="evaluate", inputs={"x": "pairs"}), r"'pairs' makes pairs, but this role takes model"),
])
def test_wrong_edges_are_refused(name: str, config: StageConfig, message: str) -> None:
    stages = chain() | {name: config}
    with pytest.raises(UserError, match=message):
        order(stages)


def test_an_adopted_stage_has_no_inputs() -> None:
    stages = order(chain() | {"sft": Sft(kind="sft", adopt="/somewhere")})
    assert stages[0].inputs == {}


def test_parts_of_the_chain() -> None:
    stages = order(chain())
    assert ancestors(stages, ["pairs"]) == {"sft", "sample", "judge", "pairs"}
    assert dependents(stages, ["judge"]) == {"pairs", "dpo", "evaluate"}
    assert [stage.name for stage in chosen(stages, until="judge", only=None)] == ["sft", "sample", "judge"]
    assert chosen(stages, until=None, only=None) == stages
    assert named_stages(stages, "sft, dpo", key="force") == {"sft", "dpo"}
    with pytest.raises(UserError, match=r"until=jugde: no stage is called 'jugde'; did you mean judge\?"):
        chosen(stages, until="jugde", only=None)
