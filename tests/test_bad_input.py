"""Whatever is fed in, the answer is exit code 2, one message that names the place and the way out, and no leftovers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alignment import run
from alignment.origin import EMBEDDED

Made = Callable[[Path], list[str]]
ROW = {"prompt": "How much is 2 + 3?", "completion": "2 + 3 = 5\nAnswer: 5"}
PAIR = {"prompt": "How much is 2 + 3?", "chosen": "5", "rejected": "6", "origin": "human", "annotator": "ann"}


def rows(*given: Any, before: str = "") -> str:
    return before + "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in given)


def file(key: str, content: str | bytes, name: str = "rows.jsonl", *more: str) -> Made:
    """A file of this content, given as the value of `key`."""
    def made(folder: Path) -> list[str]:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return [f"{key}={path}", *(["data=file"] if key == "data.path" else []), *more]
    return made


def said(*overrides: str) -> Made:
    return lambda folder: [part.replace("{folder}", str(folder)) for part in overrides]


def parquet(key: str, columns: dict[str, list[Any]], *, cut: int | None = None) -> Made:
    def made(folder: Path) -> list[str]:
        path = folder / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        path.write_bytes(path.read_bytes()[:cut])
        return [f"{key}={path}"]
    return made


def model(**files: str | None) -> Made:
    """A model folder that lacks or spoils these files."""
    def made(folder: Path) -> list[str]:
        place = folder / "model"
        place.mkdir()
        whole = {"config.json": json.dumps({"model_type": "llama", "vocab_size": 3}), "model.safetensors": "w",
                 "tokenizer.json": json.dumps({"model": {"vocab": {"a": 0, "b": 1, "</s>": 2}, "merges": []},
                                               "added_tokens": []}),
                 "tokenizer_config.json": json.dumps({"eos_token": "</s>", "pad_token": "</s>"})}
        for name, content in (whole | files).items():
            if content is not None:
                (place / name).write_text(content)
        return [f"model.path={place}"]
    return made


def whole_model(name: str, change: dict[str, Any]) -> Made:
    """The embedded base model with one of its files changed."""
    def made(folder: Path) -> list[str]:
        place = folder / "model"
        shutil.copytree(EMBEDDED, place)
        (place / "chat_template.jinja").unlink()
        (place / name).write_text(json.dumps(json.loads((place / name).read_text()) | change))
        return [f"model.path={place}"]
    return made


def recipe(text: str) -> Made:
    def made(folder: Path) -> list[str]:
        (folder / "recipe").mkdir()
        (folder / "recipe" / "mine.yaml").write_text(text)
        return ["recipe=mine", "--config-dir", str(folder)]
    return made


FINE = "def f(questions, completions):\n    return [0.0] * len(completions)\n"


def own_reward(content: str | bytes, function: str, *, weight: float | None = 1.0) -> Made:
    """A reward of one's own from a file of this content."""
    def made(folder: Path) -> list[str]:
        [named] = file("ppo.rewards.mine", content, "r.py")(folder)
        return [f"{named}:{function}", *([] if weight is None else [f"ppo.reward_weights.mine={weight}"])]
    return made


JUDGE = ("ppo.reward_weights.judge=1", "ppo.judge_model=m")
STAGES = "# @package _global_\ndefaults: [/kind@pretrain: pretrain, /kind@sft: sft, _self_]\n"

CASES: dict[str, tuple[Made, str]] = {
    # keys, values, recipes, stages
    "misspelt recipe": (said("recipe=ppo_fim"), "did you mean ppo_fin?"),
    "misspelt stage": (said("sfft.max_steps=3"), "did you mean sft?"),
    "misspelt key": (said("ppo.num_iteration=3"), "did you mean num_iterations?"),
    "misspelt value": (said("ppo.optimizer=adam"), "did you mean adamw?"),
    "misspelt group": (said("rollout=vlm"), "did you mean vllm?"),
    "a word for a number": (said("sft.max_steps=many"), "sft.max_steps"),
    "a fraction of a step": (said("sft.max_steps=2.5"), "sft.max_steps"),
    "no steps": (said("sft.max_steps=0"), "must be at least 1"),
    "a negative rate": (said("sft.learning_rate=-1"), "must be at least 0"),
    "an infinite rate": (said("sft.learning_rate=inf"), "must be a finite number"),
    "not a number": (said("ppo.gamma=nan"), "must be a finite number"),
    "a weight that is not a number": (said("ppo.reward_weights.rule=nan"), "must be a finite number"),
    "gamma above 1": (said("ppo.gamma=2"), "must be 0 to 1"),
    "null where there must be a value": (said("sft.max_steps=null"), "sft.max_steps"),
    "a list for a number": (said("sft.max_steps=[1,2]"), "sft.max_steps"),
    "an option that does not exist": (said("--fast"), "there is no such option"),
    "a word without a value": (said("sft"), "write KEY=VALUE"),
    "a seed below 0": (said("seed=-3"), "must be at least 0"),
    "a name that leaves the folder": (said("name=../elsewhere"), "becomes a folder"),
    "a name longer than a folder's": (said("name=" + "a" * 300), "100 at most"),
    "a hidden name": (said("name=.hidden"), "becomes a folder"),
    "an unknown stage to stop at": (said("until=reward"), "did you mean reward_model?"),
    "an unknown stage to start at": (said("from=evaluation"), "did you mean evaluate?"),
    "a start without what comes before": (said("from=ppo"), "stage pretrain has to run first"),
    "only one stage of nothing": (said("only=sft"), "stage pretrain has to run first"),
    "nothing to accept": (said("accept_code_change=sft"), "it was never run"),
    "several stages without quotes": (said("until=sft,pairs"), "needs quotes"),
    "a baseline of one": (said("ppo.num_samples=1"), "num_samples must be 2 or more"),
    "a language that is not made": (said("data.languages=[en,fr]"), "'fr' is unknown"),
    "a kind that is not made": (said("data.kinds=[growht]"), "growht"),
    "a source that does not exist": (said("data.source=finace"), "did you mean finance?"),
    "a gate that cannot be read": (said("sft.require=[dev_accuracy]"), "sft.require"),
    "a gate on no metric": (said("sft.require=['dev_acuracy >= 0.1']"), "did you mean dev_accuracy?"),
    "a gate on another kind's metric": (said("pretrain.require=['best_of_gain > 0']"), "no metric of a pretrain stage"),
    "forcing what is left alone": (said("only=pretrain", "force=judge"), "force=judge"),
    "a folder that is not there": (said("--config-dir", "{folder}/none"), "none"),
    # rewards
    "a weight of no reward": (said("ppo.reward_weights.ruel=1"), "did you mean rule?"),
    "a reward without a weight": (own_reward(FINE, "f", weight=None), "ppo.rewards.mine has no weight"),
    "a reward that hides another": (said("ppo.rewards.rule=r.py:f"), "not a name for a reward of your own"),
    "a reward that is no function's name": (said("ppo.rewards.mine=r.py"), "write FILE.py:FUNCTION"),
    "a reward's file that is not there": (said("ppo.rewards.mine={folder}/r.py:f"), "there is no file"),
    "a reward's module that is not there": (said("ppo.rewards.mine=no_such.rewards:f"), "no module 'no_such.rewards'"),
    "a reward that its file lacks": (own_reward(FINE, "g"), "defines no 'g' at its top level"),
    "a reward's file that is not Python": (own_reward("def f(:\n", "f"), "r.py:1: "),
    "a reward's file of bytes": (own_reward(bytes(range(256)), "f"), "r.py"),
    "a reward's weight that is a word": (said("ppo.reward_weights.rule=much"), "ppo.reward_weights.rule"),
    "a reward that is a list": (said("ppo.rewards.mine=[1,2]"), "ppo.rewards.mine"),
    "rewards that are no mapping": (said("ppo.rewards=r.py:f"), "ppo.rewards"),
    "a judge that is not named": (said("ppo.reward_weights.judge=1"), "which judge?"),
    "a judge behind a file": (said(*JUDGE, "ppo.judge_url=file:///etc/passwd"),
                              "ppo.judge_url=file:///etc/passwd: must begin with https://"),
    "a judge with a password": (said(*JUDGE, "ppo.judge_url='https://u:hunter2@h/v1'"),
                                "ppo.judge_url: holds a name, a password"),
    "a judge whose key is not set": (said(*JUDGE, "ppo.judge_url=https://h/v1", "ppo.judge_key_variable=NO_SUCH_KEY"),
                                     "ppo.judge_key_variable=NO_SUCH_KEY: that environment variable is not set"),
    "a URL that is none": (said("sample.model=m", "sample.url=nonsense"), "sample.url=nonsense: must begin with"),
    "weights that are all 0": (said("ppo.reward_weights={rule: 0, reward_model: 0}"), "every weight is 0"),
    # recipes
    "no stages": (recipe("# @package _global_\n"), "the recipe has no stages"),
    "broken YAML": (recipe("# @package _global_\nsft: [\n"), "not readable YAML"),
    "a recipe that is a list": (recipe("- 1\n"), "must hold keys and values"),
    "an unknown input": (recipe(STAGES + "pretrain: {inputs: {model: base}}\nsft: {inputs: {model: pretrian}}\n"),
                         "did you mean pretrain?"),
    "an unknown role": (recipe(STAGES + "pretrain: {inputs: {model: base}}\nsft: {inputs: {modle: pretrain}}\n"),
                        "did you mean model?"),
    "a missing input": (recipe(STAGES + "pretrain: {inputs: {model: base}}\n"), "role 'model' (model) is not given"),
    "a circle": (recipe(STAGES + "pretrain: {inputs: {model: sft}}\nsft: {inputs: {model: pretrain}}\n"), "circle"),
    "an input of another type": (recipe(
        "# @package _global_\ndefaults: [/kind@sft: sft, /kind@sample: sample, /kind@judge: judge, _self_]\n"
        "sft: {inputs: {model: base}}\nsample: {inputs: {policy: sft}}\njudge: {inputs: {completions: sft}}\n"),
        "makes model, but this role takes completions"),
    # data files
    "a file that is missing": (said("data=file", "data.path={folder}/none.jsonl"), "none.jsonl"),
    "an empty file": (file("data.path", ""), "is empty"),
    "only blank lines": (file("data.path", "\n\n"), "is empty"),
    "a folder without tables": (said("data=file", "data.path={folder}"), "has no"),
    "a binary file": (file("data.path", bytes(range(256)) * 9), "rows.jsonl"),
    "broken JSON on line 7": (file("data.path", rows(*[ROW] * 6, '{"prompt": ')), "rows.jsonl:7"),
    "a line that is no object": (file("data.path", rows(ROW, "[1]")), "rows.jsonl:2"),
    "a key given twice": (file("data.path", rows('{"prompt": "a", "prompt": "b"}')), "rows.jsonl:1"),
    "NaN in JSON": (file("data.path", rows('{"prompt": "a", "answer": NaN}')), "rows.jsonl:1"),
    "half a character": (file("data.path", rows({"prompt": "a\ud800b", "answer": "3"})), "'prompt' holds half of"),
    "UTF-16": (file("data.path", rows(ROW).encode("utf-16")), "UTF-8"),
    "columns of another task": (file("data.path", rows({"input": "a", "output": "b"})), "['input', 'output']"),
    "mixed schemas": (file("data.path", rows(ROW, {"input": "a"})), "row 2"),
    "too few rows to hold some out": (file("data.path", rows(ROW)), "no question is left for"),
    "a prompt that is a number": (file("data.path", rows({"prompt": 3, "answer": "3"})), "row 1"),
    "no number among the answers": (file("data.path", rows({"prompt": "a?", "answer": "yes"})),
                                    "the answer is no number"),
    "another kind of file": (file("data.path", "a,b\n", "rows.csv"), "cannot be read"),
    "a truncated Parquet file": (parquet("sft.dataset", {"prompt": ["a"], "completion": ["b"]}, cut=60), "Parquet"),
    "text that is called Parquet": (file("sft.dataset", rows(ROW), "rows.parquet"), "Parquet"),
    "Parquet of other columns": (parquet("sft.dataset", {"text": ["a"]}), "row 1"),
    "a dataset that is missing": (said("sft.dataset={folder}/none.jsonl"), "there is no such file"),
    "a message without a role": (file("sft.dataset", rows({"messages": [{"content": "a"}]})), "messages[0]"),
    "a message that is null": (file("sft.dataset", rows({"messages": [None]})), "messages[0]"),
    "no completion anywhere": (file("sft.dataset", rows({"prompt": "a"})), "no completion"),
    "documents without text": (file("pretrain.dataset", rows({"text": "  "})), "empty text"),
    "a document that is a number": (file("pretrain.dataset", rows({"text": 3})), "field 'text'"),
    # preference pairs
    "pairs that are missing": (said("pairs.human={folder}/none.jsonl"), "there is no such file"),
    "pairs of a device": (said("pairs.human=/dev/zero"), "is a device or a pipe"),
    "an empty file of pairs": (file("pairs.human", ""), "is empty"),
    "a pair without its loser": (file("pairs.human", rows({"prompt": "a", "chosen": "b"})), "rejected"),
    "chosen is rejected": (file("pairs.human", rows(PAIR | {"rejected": "5"})), "rows.jsonl:1"),
    "an answer that is null": (file("pairs.human", rows(PAIR | {"chosen": None})), "chosen"),
    "the same id twice": (file("pairs.human", rows(PAIR | {"id": "x"}, PAIR | {"id": "x", "chosen": "7"})),
                          "field 'id'"),
    "half a character in a pair": (file("pairs.human", rows(PAIR | {"prompt": "a\ud800"})), "'prompt' holds half of"),
    "a weight beyond every number": (file("pairs.human", rows(PAIR)[:-2] + ', "weight": 1e999}\n'), "rows.jsonl:1"),
    "a weight below 0": (file("pairs.human", rows(PAIR | {"weight": -1})), "weight"),
    "a prompt that ends with an answer": (file("pairs.human", rows(PAIR | {"prompt": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})), "rows.jsonl:1"),
    # models
    "a model that is not there": (said("model.path={folder}/none"), "not a Hugging Face model folder"),
    "a folder that is no model": (said("model.path={folder}"), "not a Hugging Face model folder"),
    "a model without weights": (model(**{"model.safetensors": None}), "safetensors"),
    "pickled weights": (model(**{"model.safetensors": None, "pytorch_model.bin": "x"}), "safetensors"),
    "weights that Git LFS has not fetched": (model(**{"model.safetensors": "version https://git-lfs.github.com/spec/v1"}),
                                             "not a safetensors file"),
    "a model without a tokenizer": (model(**{"tokenizer.json": None}), "tokenizer.json"),
    "a config that is no JSON": (model(**{"config.json": "{"}), "config.json"),
    "a vocabulary that is no number": (model(**{"config.json": '{"model_type": "llama", "vocab_size": "many"}'}),
                                       "vocab_size='many'"),
    "a vocabulary of null": (model(**{"config.json": '{"model_type": "llama", "vocab_size": null}'}),
                             "vocab_size=None"),
    "a vocabulary larger than the model's": (model(**{"config.json": '{"model_type": "llama", "vocab_size": 2}'}),
                                             "3 entries"),
    "a model of no known type": (whole_model("config.json", {"model_type": "mine"}),
                                 "model_type 'mine' needs code that comes with the model"),
    "weights of another config": (whole_model("config.json", {"intermediate_size": 9}),
                                  "in the weights, but config.json makes it"),
    "a chat template that fails": (whole_model("tokenizer_config.json", {"chat_template": "{{ a.b.c }}"}),
                                   "its chat template cannot write"),
    "completions longer than the model": (said("sample.max_new_tokens=9999"), "sample.max_new_tokens=9999: the model"),
    "adopting what is no model": (said("sft.adopt={folder}"), "config.json"),
    "adopting what is not there": (said("sft.adopt={folder}/none"), "there is no such file or folder"),
    # places
    "a runs folder that is a file": (file("runs_dir", "x", "taken"), "cannot be written"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, wanted = CASES[case]
    given = tmp_path / "given"
    given.mkdir()
    arguments = made(given)
    if not any(part.startswith("recipe=") for part in arguments):
        arguments.insert(0, "recipe=ppo_fin")
    if not any(part.startswith("runs_dir=") for part in arguments):
        arguments.append(f"runs_dir={tmp_path / 'runs'}")
    before = sorted(given.rglob("*"))
    assert run.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and wanted in shown.err.replace(str(tmp_path), "")
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and "Traceback" not in shown.err
    assert not (tmp_path / "runs").exists() and sorted(given.rglob("*")) == before


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 60
