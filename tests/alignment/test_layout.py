"""How processes are laid out: what a stage gets of them, what is refused, and the recipes for eight GPUs of 80 GB."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment import layout, pinning, prepare, run
from alignment.config import load
from alignment.kinds import KINDS, Dpo, Ppo, Sft
from alignment.layout import ALONE, Layout
from alignment.origin import EMBEDDED
from data.schema import UserError

GIB = 1024  # MiB
QWEN3_8B = {  # as published, Qwen/Qwen3-8B-Base
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 32768, "tie_word_embeddings": False}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model of 8B whose weights are still to be fetched: its config and a tokenizer."""
    folder = tmp_path / "Qwen3-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_8B))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((EMBEDDED / name).read_bytes())
    return folder


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(pinning, "gpus", lambda *ignored: count)


def test_what_a_stage_gets_of_it() -> None:
    eight = Layout(8, 2, "fsdp")
    assert (eight.world, str(eight)) == (16, "8 processes on each of 2 machines, fsdp")
    for kind in ("pretrain", "sft", "reward_model", "dpo", "ppo"):
        assert eight.of(KINDS[kind], KINDS[kind].config()) == eight
        assert eight.exactness(KINDS[kind]) == {"processes": 16, "strategy": "fsdp"}
    for kind in ("sample", "evaluate"):
        assert eight.of(KINDS[kind], KINDS[kind].config()) == Layout(8, 2, "ddp")
    assert eight.of(KINDS["sample"], KINDS["sample"].config(model="m", url="https://host/v1")) == ALONE
    for kind in ("judge", "pairs"):
        assert eight.of(KINDS[kind], KINDS[kind].config()) == ALONE
    assert all(eight.exactness(KINDS[kind]) == {} for kind in ("sample", "evaluate", "judge", "pairs"))
    assert all(ALONE.exactness(kind) == {} for kind in KINDS.values())


def test_auto_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1, 8):
        gpus(monkeypatch, count)
        assert layout.make("auto", 1, "ddp").world == max(1, count)


def test_gpus_are_those_that_a_stage_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(["nvidia0", "nvidia1", "nvidia2"]))
    found = {visible: pinning.gpus({"CUDA_VISIBLE_DEVICES": visible}) for visible in ("", "-1", "1", "0,2", "0,1,2,3")}
    assert found == {"": 0, "-1": 0, "1": 1, "0,2": 2, "0,1,2,3": 3} and pinning.gpus({}) == 3


@pytest.mark.parametrize(("overrides", "message"), [
    (["launch.processes=0"], "launch.processes=0: must be at least 1 (processes of a stage"),
    (["launch.processes=atuo"], "launch.processes=atuo: must be a number or auto"),
    (["launch.processes=1.5"], "launch.processes: Value '1.5'"),
    (["launch.nodes=0"], "launch.nodes=0: must be at least 1"),
    (["launch.strategy=fdsp"], "launch.strategy=fdsp: not one of ddp, fsdp, zero2, zero3; did you mean fsdp?"),
    (["launch.proceses=2"], "launch.proceses: launch has no key 'proceses'; did you mean processes?"),
    (["launch=lokal"], "launch=lokal: there is no such launch; did you mean local?"),
    (["launch.processes=3"], "pretrain.batch_size=4: cannot be shared out evenly to 3 processes; use a multiple of 3"),
    (["launch.processes=2", "sft.micro_batch_size=2", "launch.nodes=2", "sft.batch_size=12"],
     "sft: batch_size 12 is not a multiple of micro_batch_size 2 x 4"),
    (["launch.processes=2", "launch.strategy=zero3", *(f"{stage}.optimizer=adamw" for stage in (
        "pretrain", "sft", "reward_model", "ppo"))], "launch.strategy=zero3: sft keeps the weights of its best step"),
    (["launch.processes=2", "launch.strategy=fsdp", *(f"{stage}.optimizer=adamw" for stage in (
        "pretrain", "sft", "reward_model", "ppo"))], "launch.strategy=fsdp: each process of ppo keeps all of its"),
    (["launch.processes=2", "launch.strategy=zero3"], "launch.strategy=zero3: Muon needs a matrix whole"),
])
def test_mistakes_are_named_with_the_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare.prepare(load(["recipe=ppo_fin", *overrides]))
    assert message in str(caught.value)


def test_micro_batches_never_exceed_a_processs_share() -> None:
    config = Sft(batch_size=16, micro_batch_size=4)
    assert [layout.share_rows(config, world, where="sft") for world in (1, 2, 4, 8, 16)] == [
        (4, 4), (4, 2), (4, 1), (2, 1), (1, 1)]
    assert layout.share_rows(Dpo(batch_size=16), 1, where="dpo") == (16, 1)


@pytest.mark.parametrize(("found", "asked", "said"), [
    (0, Layout(2, 1, "ddp"), ""), (0, ALONE, ""), (0, Layout(1, 1, "fsdp"), ""), (8, Layout(8, 1, "fsdp"), ""),
    (2, Layout(4, 1, "ddp"), "launch.processes=4: this machine has 2 GPU(s)"),
    (0, Layout(999, 1, "ddp"), "launch.processes=999: this machine has no GPU and"),
    (0, Layout(2, 1, "fsdp"), "would train by DDP instead, without a word; use launch.strategy=ddp"),
    (0, Layout(2, 1, "zero2"), "launch.strategy=zero2: there is no GPU here"),
    (8, Layout(8, 1, "zero3"), "DeepSpeed is not installed"),
])
def test_what_this_machine_cannot_do_is_an_error_with_a_way_out(found: int, asked: Layout, said: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, found)
    problem = layout.obstacle(asked)
    assert said in problem and bool(said) == bool(problem)


def test_a_run_that_asks_for_shares_where_there_would_be_none_ends_before_it_starts(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["recipe=sft_fin", f"runs_dir={tmp_path}", "launch.processes=2", "launch.strategy=fsdp",
             "pretrain.optimizer=adamw", "sft.optimizer=adamw"]
    assert run.main(asked) == 2
    assert "error: launch.strategy=fsdp: there is no GPU here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run.main([*asked, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "launch: 2 processes on this machine, fsdp" in said and "not on this machine: launch.strategy=fsdp" in said


def test_processes_count_in_the_identity_of_what_they_train_alone() -> None:
    one, two = ({node.name: node.identity for node in prepare.prepare(load(
        ["recipe=ppo_fin", "pretrain.adopt=data/embedded/base_tiny", f"launch.processes={count}"])).nodes}
        for count in (1, 2))
    assert one["pretrain"] == two["pretrain"] and one["sft"] != two["sft"]
    adopted = ["recipe=evaluate", "rollout=transformers"]
    identities = {node.identity for count in (1, 2)
                  for node in prepare.prepare(load([*adopted, f"launch.processes={count}"])).nodes}
    assert len(identities) == 1


# The recipes for eight GPUs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["ppo_fin_8b", "dpo_fin_lora"])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_large_recipes_fit_eight_gpus_of_80_gib(recipe: str, engine: str, large: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8)
    monkeypatch.setattr(prepare, "rollout_engine", lambda wanted: engine)
    prepared = prepare.prepare(load([f"recipe={recipe}", f"model.path={large}", f"runs_dir={large}"]))
    assert str(prepared.layout) == "8 processes on this machine, ddp" and layout.obstacle(prepared.layout) == ""
    memory = {stage.stage: stage.memory for stage in prepare.costs(prepared).stages}
    trained = {"ppo_fin_8b": ["pretrain", "sft", "reward_model", "ppo"], "dpo_fin_lora": ["pretrain", "sft", "dpo"]}
    for name in trained[recipe]:
        assert 16 * GIB < memory[name] < 75 * GIB, name  # type: ignore[operator]
    assert all(each < 75 * GIB for each in memory.values() if each is not None)


@pytest.mark.parametrize("recipe", ["ppo_fin_8b", "dpo_fin_lora"])
def test_the_large_recipes_are_dry_run_before_their_weights_are_there(
        recipe: str, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"recipe={recipe}", f"model.path={large}", f"runs_dir={tmp_path / 'runs'}"]
    assert run.main([*asked, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "launch: 8 processes on this machine, ddp" in said and "unknown" not in said
    assert run.main(asked) == 2
    assert not (tmp_path / "runs").exists()
    (large / "pytorch_model.bin").write_bytes(b"")
    assert run.main([*asked, "dry_run=true"]) == 2
    assert "has no *.safetensors weights" in capsys.readouterr().err


def test_ppo_is_what_its_recipe_counts() -> None:
    stages = load(["recipe=ppo_fin_8b"]).stages
    ppo = stages["ppo"]
    assert isinstance(ppo, Ppo)
    assert ppo.num_prompts * ppo.num_iterations == ppo.question_pool
    assert ppo.num_prompts * ppo.num_samples == 2 * ppo.minibatch_size == 512
