"""What the stages of a run will do and take, known before any starts: work, optimizer steps, tokens, memory and disk.

Upper bounds where the data may have fewer rows than asked for or a stage may stop early; memory is an estimate. Reads
configs, the headers of weights and a few rows of the data; starts nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import data.finance
from alignment import footprint
from alignment.checkpoints import KEPT
from alignment.contracts import MODEL_TYPES
from alignment.footprint import FLOAT, MIB, Rows
from alignment.keys import PATIENCE
from alignment.kinds import (
    Adapter,
    Critic,
    Dpo,
    Evaluate,
    GroupTraining,
    Ppo,
    Pretrain,
    ProcessReward,
    RewardModel,
    Sample,
    SelfSampling,
    Sft,
    StageConfig,
    TrainingConfig,
)
from alignment.layout import ALONE, Layout
from alignment.model_size import Size, from_config, read_size
from alignment.origin import EMBEDDED_CRITIC
from alignment.plan import BASE, PlannedStage
from alignment.preference_kinds import Judge, Pairs
from data.files import is_local
from data.finance.generator import solution_text
from data.preferences import read_pairs
from data.rows import read_rows
from data.schema import PreferencePair, UserError
from data.sources import open_source
from reward.walk import MAX_TOKENS, ROOM

EXAMPLES = 200  # rows of the data whose tokens are counted
TEMPLATE = 8  # tokens that a chat template adds to a prompt
UNREAD = (256, 256)  # tokens of a prompt and a solution that are not to be seen now
TOKEN_BYTES = 4  # of text
ROW_BYTES = 300  # of a JSONL row beside its texts
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a stage does, at most."""

    text: str
    steps: int = 0  # of any optimizer
    trained: int = 0  # tokens
    generated: int = 0  # tokens
    questions: int = 0  # in what it makes
    rows: int = 0
    held_out: int = 0  # of the rows


@dataclasses.dataclass(frozen=True)
class Forecast:
    """One stage; sizes in MiB, None where the model's size is not known."""

    stage: str
    work: Work
    memory: float | None
    artifact: float | None
    checkpoints: float | None


def forecasts(stages: Sequence[PlannedStage], *, base: Path | None, source: Mapping[str, Any],
              rollout: Mapping[str, Any], layout: Layout = ALONE) -> dict[str, Forecast]:
    """stage -> forecast, for stages in their order. `base`: the base model's folder, where the chain has one. Raises
    UserError where weights or a tokenizer cannot be read."""
    others = sum(path.stat().st_size for path in base.glob("*") if path.suffix != ".safetensors") if base else 0
    sizes: dict[str, Size | None] = {BASE: read_size(base) if base else None}
    rows = Rows(*(longest_rows(source, base) if base else UNREAD), rollout)
    works: dict[str, Work] = {}
    found = {}
    for stage in stages:
        name = stage.name
        models = [sizes[other] for role, other in stage.inputs.items() if stage.kind.wants(role) == "model"]
        judge = next((sizes[other] for role, other in stage.inputs.items() if role.startswith("reward_")), None)
        size = sizes[name] = made_size(stage, models)
        if stage.adopted:
            folder = Path(str(stage.config.adopt)).expanduser()
            works[name] = adopted(folder)
            found[name] = Forecast(name, works[name], 0.0, tree_bytes(folder) / MIB, 0.0)
            continue
        check_room(stage, models)
        works[name] = work(stage, works, source)
        artifact = artifact_bytes(stage, works[name], size, rows)
        if artifact is not None and stage.kind.makes in MODEL_TYPES:
            artifact += others
        memory = footprint.peak(stage.config, size, rows, held_out=works[name].held_out, reward_model=judge,
                                layout=layout.of(stage.kind, stage.config, served=rollout["engine"] == "server"))
        found[name] = Forecast(name, works[name], mib(memory), mib(artifact),
                               mib(checkpoint_bytes(stage.config, size)))
    return found


def check_room(stage: PlannedStage, models: Sequence[Size | None]) -> None:
    """Raises UserError where a completion as long as it may be leaves no token of a model's positions for a prompt."""
    asked = getattr(stage.config, "max_new_tokens", 0)
    for size in filter(None, models):
        if asked >= size.positions:
            raise UserError(f"{stage.name}.max_new_tokens={asked}: the model has {size.positions} positions for a "
                            "prompt and its completion; ask for fewer")


def mib(size: float | None) -> float | None:
    return None if size is None else size / MIB


def made_size(stage: PlannedStage, models: Sequence[Size | None]) -> Size | None:
    """The size of the model a stage trains or generates with: the largest of its inputs, a new one, an adopted one."""
    if stage.adopted:
        folder = Path(str(stage.config.adopt)).expanduser()
        return read_size(folder) if (folder / "config.json").is_file() else None
    config = stage.config
    if isinstance(config, Pretrain) and config.initial == "random":
        return from_config({
            "model_type": config.architecture, "tie_word_embeddings": True, "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size, "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads, "intermediate_size": config.intermediate_size})
    if isinstance(config, Judge) and config.judge == "critic" and not models:
        return read_size(EMBEDDED_CRITIC)
    return max(filter(None, models), key=lambda size: size.parameters, default=None)


def longest_rows(source: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """Tokens of the longest prompt, its template included, and of the longest solution among a few rows of the data."""
    if source["source"] == "finance":  # the shipped pairs are of its questions, and read faster than one is drawn
        texts = [(pair.prompt[-1]["content"], pair.chosen) for pair in shipped_pairs(source)]
    elif source["path"] and is_local(source["path"]):
        questions = open_source(source).questions("train", count=EXAMPLES, seed=0)
        texts = [(question.prompt, solution_text(question)) for question in questions]
    else:
        return UNREAD
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    prompts, solutions = (tokenizer.encode_batch([text[side] for text in texts[:EXAMPLES]]) for side in (0, 1))
    return TEMPLATE + max(map(len, prompts), default=0), 1 + max(map(len, solutions), default=0)


def shipped_pairs(source: Mapping[str, Any]) -> list[PreferencePair]:
    """The pairs that ship with the package, in the source's languages."""
    return [row for row in _shipped_pairs() if row.language in source["languages"]]


@functools.cache
def _shipped_pairs() -> list[PreferencePair]:
    return read_rows(Path(data.finance.__file__).parent / "simulated_pairs.jsonl", PreferencePair)


def read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: cannot be read as a tokenizer ({error}); download the model again") from error


def tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def adopted(folder: Path) -> Work:
    """What is copied; rows are counted where it is data."""
    counts = {}
    for path in folder.glob("*.jsonl"):
        with path.open("rb") as file:
            counts[path.stem] = sum(1 for _ in file)
    return Work("copied", questions=counts.get("questions", 0),
                rows=counts.get("completions") or counts.get("verdicts") or counts.get("train", 0))


# What it does ----------------------------------------------------------------------------------------------------


def work(stage: PlannedStage, before: Mapping[str, Work], source: Mapping[str, Any]) -> Work:
    """The work of a stage, given that of those before it."""
    config = stage.config
    read = before[stage.inputs["completions"]] if "completions" in stage.inputs else Work("")
    match config:
        case Pretrain():
            count = config.num_domain + config.num_general + config.num_drills + config.num_problems
            what = f"documents of {config.dataset}" if config.dataset else f"{count:,} documents"
            return training(config, f"{what} in rows of {config.max_length} tokens", rows=config.batch_size)
        case Sft():
            count = min(config.num_examples or read.rows, read.rows) if config.from_verdicts else config.num_examples
            what = f"{count:,}" if count else "all"
            return training(config, f"{what} solutions, {config.dev_examples:,} dev questions", rows=config.batch_size)
        case Critic():
            return training(config, f"{config.num_examples:,} solutions to judge, {config.num_held_out:,} held out",
                            rows=config.batch_size)
        case RewardModel() | Dpo():
            pairs = before[stage.inputs["pairs"]]
            done = training(config, f"{pairs.rows:,} pairs", rows=2 * config.batch_size)
            return dataclasses.replace(done, held_out=pairs.held_out)
        case ProcessReward():
            done = training(config, f"{read.rows:,} judged completions", rows=config.batch_size)
            return dataclasses.replace(done, held_out=math.ceil(config.dev_fraction * read.rows))
        case Sample():
            return generating(config.num_questions, config.num_questions * config.num_samples, config.max_new_tokens)
        case Judge():
            return judging(config, read)
        case Pairs():
            made = read.questions * sum(cap for sort, cap in caps(config).items() if sort in config.build)
            made = min(made, read.rows * len(config.build))
            human = human_pairs(config, source)
            return Work(f"{made:,} pairs of samples, {human:,} of people", rows=made + human,
                        held_out=math.ceil(config.dev_fraction * (made + human)))
        case Ppo():
            return ppo(config)
        case GroupTraining():
            return rollouts(config)
        case Evaluate():
            judged = len(stage.inputs) - (policies := sum(not role.startswith("reward_") for role in stage.inputs))
            completions = policies * config.num_questions * (1 + config.num_samples)
            completions += config.questions_drawn * config.best_of if judged else 0
            done = generating(config.questions_drawn, completions, config.max_new_tokens)
            return dataclasses.replace(done, text=f"{policies} policies: {done.text}")
    raise TypeError(f"no forecast of {type(config).__name__}")


def training(config: Pretrain | Sft | Critic | RewardModel | ProcessReward | Dpo, text: str, *, rows: int) -> Work:
    """Optimizer steps on `rows` rows of at most `max_length` tokens each."""
    return Work(text, steps=config.max_steps, trained=config.max_steps * rows * config.max_length)


def generating(questions: int, completions: int, new_tokens: int) -> Work:
    return Work(f"{completions:,} completions of {questions:,} questions", generated=completions * new_tokens,
                questions=questions, rows=completions)


def ppo(config: Ppo) -> Work:
    """Steps of policy and critic, self-imitation included; a step on a shared trunk is one of both."""
    batch = config.num_prompts * config.num_samples
    updates = config.num_epochs * math.ceil(batch / config.minibatch_size)
    warm_up = min(config.critic_warmup, config.num_iterations)
    learning = config.num_iterations - warm_up
    policy = config.num_iterations if config.advantages == "group" else learning
    critic = {"group": 0, "gae": warm_up if config.critic_from == "shared" else config.num_iterations}
    imitated = learning * config.imitation_steps
    done = rollouts(config, steps=(policy + critic[config.advantages]) * updates + imitated)
    return dataclasses.replace(
        done, trained=done.trained + imitated * config.imitation_batch_size * config.max_new_tokens)


def rollouts(config: Ppo | GroupTraining, *, steps: int = 0) -> Work:
    """Iterations of a rollout batch and its updates, `steps` in all, or those TRL's trainers take."""
    completions = config.num_iterations * config.num_prompts * config.num_samples
    answers = config.dev_examples * ((isinstance(config, Ppo) and config.alarms["accuracy"] != "off")
                                     + math.ceil(config.num_iterations / config.eval_every))
    return Work(f"{config.num_iterations} iterations of {config.num_prompts} questions x {config.num_samples} samples",
                steps=steps if isinstance(config, Ppo) else config.max_steps,
                generated=(completions + answers) * config.max_new_tokens,
                trained=completions * config.num_epochs * config.max_new_tokens)


def judging(config: Judge, read: Work) -> Work:
    """What a model is asked: of each completion every task, of each two to compare both orders."""
    if config.judge == "critic":
        return Work(f"{read.rows:,} completions, each walked through", questions=read.questions, rows=read.rows,
                    generated=read.rows * (MAX_TOKENS - MAX_TOKENS // ROOM))
    asked = 0
    if config.judge != "rule":
        asked = read.rows * sum(task not in ("outcome_rule", "pairwise", "principles") for task in config.tasks)
        asked += 2 * read.questions * config.comparisons * any(task in ("pairwise", "principles")
                                                               for task in config.tasks)
    told = f", {asked:,} replies of {config.model}" if asked else ""
    return Work(f"{read.rows:,} completions{told}", questions=read.questions, rows=read.rows,
                generated=asked * config.max_tokens)


def caps(config: Pairs) -> dict[str, int]:
    """sort of pair -> how many of it a question can have; of comparisons there are as many as the judge has made."""
    cap = config.max_pairs_per_question
    return {"outcome": cap, "naive": cap, "comparisons": cap, "process": config.max_steps_per_question}


def human_pairs(config: Pairs, source: Mapping[str, Any]) -> int:
    if config.human == "embedded":
        return len(shipped_pairs(source)) if source["source"] == "finance" else 0
    return len(read_pairs(config.human)) if config.human else 0


# What it leaves --------------------------------------------------------------------------------------------------


def artifact_bytes(stage: PlannedStage, done: Work, size: Size | None, rows: Rows) -> float | None:
    """What the stage's artifact takes, tokenizers left out; None where the model's size is not known."""
    config = stage.config
    question = ROW_BYTES + TOKEN_BYTES * rows.whole
    match config:
        case Judge():  # each row quotes its completion; a reply is there twice, in its row and for replay
            return done.rows * (ROW_BYTES + TOKEN_BYTES * rows.solution) + 2 * TOKEN_BYTES * done.generated
        case Pairs():
            return done.rows * (question + TOKEN_BYTES * rows.solution)
        case Sample():  # a token is there as text and as an id
            return done.questions * question + done.rows * ROW_BYTES + done.generated * 2 * TOKEN_BYTES
        case Evaluate():
            return done.questions * question + done.rows * ROW_BYTES + done.generated * TOKEN_BYTES
    if size is None:
        return None
    if isinstance(config, Pretrain):
        return size.parameters * BYTES[config.save_dtype]
    adapter = size.adapter(config.lora_rank) * FLOAT if isinstance(config, Adapter) else 0
    critic = footprint.critic(config, size) if isinstance(config, Ppo) else None
    return (size.parameters + (critic.parameters if critic else 0)) * FLOAT + adapter


def checkpoint_bytes(config: StageConfig, size: Size | None) -> float | None:
    """What a stage's resumable checkpoints take at most, the one being written included; gone with its sealing."""
    if not isinstance(config, TrainingConfig | GroupTraining | Ppo):
        return 0.0
    if size is None:
        return None
    steps = config.num_iterations if isinstance(config, SelfSampling) else config.max_steps
    model = footprint.trained(size, config, rank=config.lora_rank)
    one = model.gradients * (2 if isinstance(config, Sft) else 1) + model.optimizer  # and the best weights so far
    if isinstance(config, Ppo) and (critic := footprint.critic(config, size)):
        one += footprint.trained(critic, config, rank=0).held
    kept, made = KEPT, max(1, math.ceil(steps / config.save_every))
    if isinstance(config, Ppo) and config.rolling:  # and those that may be gone back to, from the start on
        kept, made = kept + PATIENCE // config.save_every + 2, made + 2
    return one * min(kept + 1, made)
