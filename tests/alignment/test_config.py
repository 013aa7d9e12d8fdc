"""Command lines to configs: what is refused and how, scales, user recipes, and the help."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alignment import run, usage
from alignment.config import RECIPES, load
from alignment.engine_choice import RolloutConfig
from alignment.kinds import KINDS, Evaluate, Grpo, Ppo, Sample, Sft
from alignment.plan import order
from alignment.stage import Rollout
from data.schema import UserError

SHIPPED = sorted(path.stem for path in (RECIPES / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("scale", ["full", "tiny"])
@pytest.mark.parametrize("recipe", SHIPPED)
def test_shipped_recipes_are_sound(recipe: str, scale: str) -> None:
    config = load([f"recipe={recipe}", f"scale={scale}"])
    assert len(order(config.stages)) == len(config.stages)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_begin_with_a_sentence_and_hold_no_default(path: Path) -> None:
    assert usage.first_comment(path).endswith(".") or "=" in usage.first_comment(path)
    if path.parent.name != "recipe":
        return
    content = yaml.safe_load(path.read_text())
    kinds = {entry_name.partition("@")[2]: kind for entry in content.pop("defaults") if isinstance(entry, dict)
             for entry_name, kind in entry.items()}
    for stage, values in content.items():
        if stage in kinds:
            default = dataclasses.asdict(KINDS[kinds[stage]].config())
            same = [name for name, value in values.items() if default[name] == value]
            assert same == [], f"{path.name}: {stage} repeats the defaults of {same}"


@pytest.mark.parametrize(("overrides", "message"), [
    (["recipe=pp_fin"], "recipe=pp_fin: there is no such recipe; did you mean ppo_fin?"),
    ([], "say which recipe: recipe=NAME, with one of advantages"),
    (["recipe=ppo_fin", "ppo.lerning_rate=1"], "ppo has no key 'lerning_rate'; did you mean learning_rate?"),
    (["recipe=ppo_fin", "ppoo.gamma=1"], "ppoo: there is no such key or stage; did you mean ppo?"),
    (["recipe=ppo_fin", "sed=3"], "sed: there is no such key or stage; did you mean seed?"),
    (["recipe=ppo_fin", "+sed=3"], "sed: there is no such key or stage; did you mean seed?"),
    (["recipe=ppo_fin", "data.sorce=x"], "data.sorce: data has no key 'sorce'; did you mean source?"),
    (["recipe=ppo_fin", "+data.sorce=x"], "data.sorce: there is no such key; did you mean source?"),
    (["recipe=ppo_fin", "ppo.gamma=high"], "ppo.gamma: Value 'high' of type 'str' could not be converted to Float"),
    (["recipe=ppo_fin", "seed=one"], "seed: Value 'one' of type 'str' could not be converted to Integer"),
    (["recipe=ppo_fin", "seed=-1"], "seed=-1: must be at least 0"),
    (["recipe=ppo_fin", "ppo.gamma=1.5"], "ppo.gamma=1.5: must be 0 to 1 (discount)"),
    (["recipe=ppo_fin", "ppo.num_samples=1"], "ppo.group_baseline=True: compares a question's completions, so"),
    (["recipe=ppo_fin", "ppo.num_samples=1", "ppo.group_baseline=false"], "ppo.min_spread=0.5: compares"),
    (["recipe=ppo_fin", "until=sft,pairs"], "until=sft,pairs: a list in one value needs quotes within quotes, 'until="),
    (["recipe=ppo_fin", "sft.optimizer=moun"], "sft.optimizer=moun: not one of adamw, muon; did you mean muon?"),
    (["recipe=ppo_fin", "gates=wran"], "gates=wran: not one of stop, warn; did you mean warn?"),
    (["recipe=ppo_fin", "ppo.gamma"], "cannot read 'ppo.gamma': write KEY=VALUE"),
    (["recipe=ppo_fin", "model=./here"], "a path or hub id is given as model.path=./here"),
    (["recipe=ppo_fin", "data=tatqa"], "data.path must be given"),
    (["recipe=ppo_fin", "name=a/b"], "name=a/b: start with a letter"),
    (["recipe=ppo_fin", "sft.dataset=./none.jsonl"], "sft.dataset=./none.jsonl: there is no such file"),
    (["recipe=ppo_fin", "sft.adopt=none"], "sft.adopt=none: there is no such file or folder"),
    (["recipe=ppo_fin", "+scale.stages.ppp={}"], "scale.stages.ppp: there is no such kind of stage; did you mean ppo?"),
    (["recipe=ppo_fin", "+scale.stages={ppo: {gama: 1}}"], "scale.stages.ppo.gama: ppo has no such key; did you mean"),
])
def test_mistakes_are_named_with_the_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(overrides)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_mistake_exits_2_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["recipe=pp_fin"]) == 2
    assert capsys.readouterr().err.startswith("error: recipe=pp_fin: there is no such recipe")
    assert run.main(["recipe=ppo_fin", "--dry"]) == 2
    assert run.main(["-m", "recipe=ppo_fin", "ppo.gamma=0.9,1.0"]) == 2  # would share a folder
    assert "share the folder" in capsys.readouterr().err


def test_overrides_are_typed_and_two_stages_of_a_kind_are_apart() -> None:
    stages = load(["recipe=evidence", "ppo_rule.learning_rate=1e-4", "ppo.reward_weights.rule=0.5"]).stages
    ppo, ppo_rule = stages["ppo"], stages["ppo_rule"]
    assert isinstance(ppo, Ppo) and isinstance(ppo_rule, Ppo)
    assert (ppo.learning_rate, ppo_rule.learning_rate) == (Ppo().learning_rate, 1e-4)
    assert ppo.reward_weights["rule"] == 0.5 and ppo_rule.reward_weights == {"rule": 1.0, "reward_model": 0.0}
    assert ppo.kind == ppo_rule.kind == "ppo"


def test_rejection_sampling_gets_as_many_samples_as_ppo() -> None:
    stages = load(["recipe=evidence"]).stages
    ppo, sample = stages["ppo"], stages["sample_rft"]
    assert isinstance(ppo, Ppo) and isinstance(sample, Sample)
    assert sample.num_questions * sample.num_samples == ppo.num_iterations * ppo.num_prompts * ppo.num_samples
    assert sample.purpose == "ppo"


def test_advantages_are_compared_one_key_apart() -> None:
    stages = load(["recipe=advantages"]).stages
    published = load(["recipe=evidence"]).stages
    ppo, wanted = stages["ppo"], published["ppo"]
    assert isinstance(wanted, Ppo)
    assert ppo == dataclasses.replace(wanted, inputs={"policy": "sft"}, reward_weights=Ppo().reward_weights,
                                      group_baseline=False, imitation_steps=0)
    assert isinstance(ppo, Ppo)
    assert stages["ppo_group"] == dataclasses.replace(ppo, advantages="group")
    assert stages["ppo_leave_one_out"] == dataclasses.replace(ppo, group_baseline=True)
    assert stages["sft"] == published["sft"]


def test_grpo_gets_as_many_samples_as_ppo_and_the_same_chain_before_it() -> None:
    ours, theirs = load(["recipe=ppo_fin"]).stages, load(["recipe=grpo_fin"]).stages
    ppo, grpo = ours["ppo"], theirs["grpo"]
    assert isinstance(ppo, Ppo) and isinstance(grpo, Grpo)
    for name in ("num_iterations", "num_prompts", "num_samples", "question_pool", "reward_weights", "min_spread",
                 "minibatch_size", "optimizer", "muon_learning_rate", "schedule", "kl_coefficient", "inputs"):
        assert getattr(grpo, name) == getattr(ppo, name), name
    assert {name: theirs[name] for name in ours if name not in ("ppo", "evaluate")} == {
        name: ours[name] for name in theirs if name not in ("grpo", "evaluate")}


def test_the_command_line_wins_over_the_scale_and_the_scale_over_the_recipe() -> None:
    full, tiny = (load(["recipe=ppo_fin", f"scale={scale}", "ppo.num_iterations=7"]) for scale in ("full", "tiny"))
    assert isinstance(tiny.stages["ppo"], Ppo) and tiny.stages["ppo"].num_iterations == 7
    assert isinstance(tiny.stages["sft"], Sft) and isinstance(full.stages["sft"], Sft)
    assert tiny.stages["sft"].num_examples < full.stages["sft"].num_examples
    assert (full.name, tiny.name) == ("seed1", "seed1-tiny")


def test_a_source_may_ask_something_of_the_stages(tmp_path: Path) -> None:
    stages = load(["recipe=ppo_fin", "data=tatqa", "data.path=x.json", "sft.max_length=512"]).stages
    assert isinstance(stages["sft"], Sft) and stages["sft"].max_length == 512
    assert getattr(stages["pairs"], "gold_fallback") == "missing"  # noqa: B009  (typed as StageConfig)


def test_a_users_recipe_builds_on_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text("# @package _global_\n# Mine.\ndefaults:\n  - ppo_fin\n"
                                               "  - /kind@longer: ppo\n  - _self_\n"
                                               "longer: {inputs: {policy: sft}, num_iterations: 99}\n")
    config = load(["recipe=mine"], config_dirs=[str(tmp_path)])
    assert isinstance(config.stages["longer"], Ppo) and config.stages["longer"].num_iterations == 99
    assert isinstance(config.stages["evaluate"], Evaluate)
    assert "mine          Mine." in usage.text([str(tmp_path)])
    (tmp_path / "recipe/mine.yaml").write_text("# @package _global_\ndefaults: [ppo_fin, _self_]\nppo: {gama: 1}\n")
    with pytest.raises(UserError, match=r"in recipe/mine: ppo\.gama: .*did you mean gamma\?"):
        load(["recipe=mine"], config_dirs=[str(tmp_path)])
    with pytest.raises(UserError, match="there is no such folder"):
        load(["recipe=mine"], config_dirs=[str(tmp_path / "none")])
    with pytest.raises(UserError, match="holds none of the folders"):
        load(["recipe=mine"], config_dirs=[str(tmp_path / "recipe")])


def test_help_names_every_key_and_loads_no_torch() -> None:
    code = "import sys\nfrom alignment import run\nassert run.main(['--help']) == 0\nassert 'torch' not in sys.modules"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, kind in KINDS.items():
        assert f"Keys of {name}." in text
        for field in dataclasses.fields(kind.config):
            assert field.name == "kind" or f"  {field.name}=" in text, f"{name}.{field.name}"
            assert field.name == "kind" or f"  {field.name}=" in usage.kind_help(name)
    for recipe in SHIPPED:
        assert f"  {recipe} " in text
    assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(UserError, match="did you mean ppo"):
        usage.kind_help("ppoo")


def test_every_key_has_a_sentence_of_help() -> None:
    for kind in KINDS.values():
        for field in dataclasses.fields(kind.config):
            assert len(field.metadata.get("help", "")) > 5, f"{kind.config.__name__}.{field.name}"


def test_the_rollout_group_is_what_a_stage_takes() -> None:
    assert dataclasses.asdict(RolloutConfig()) == dataclasses.asdict(Rollout())


@pytest.mark.parametrize(("content", "said"), [
    (b"# @package _global_\ndefaults:\n  - mine\n  - _self_\n", "circle|defaults"),
    (b"foo: [", "YAML"), (b"\xff\xfe\x00", "YAML"),
])
def test_a_broken_recipe_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load(["recipe=mine"], config_dirs=[str(tmp_path)])


@pytest.mark.parametrize("override", ["name=..", "name=.", "ppo.learning_rate=inf", "ppo.reward_weights.rule=-inf"])
def test_names_stay_inside_and_numbers_are_finite(override: str) -> None:
    with pytest.raises(UserError, match=r"folder|finite"):
        load(["recipe=ppo_fin", override])
