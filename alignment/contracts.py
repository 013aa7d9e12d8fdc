"""What must agree between stages: tokenizer, chat template, special tokens and vocabulary from one model to the next.

Reads configs and tokenizers as JSON; loads no model. What must not be shared is in leakage.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.identity import digest
from alignment.plan import PlannedStage
from data.schema import UserError


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What two models must share to read each other's tokens."""

    vocabulary: str  # hash of entries, merges and splitting rules
    template: str | None  # hash of the chat template
    eos: str | None
    pad: str | None
    size: int  # highest token id + 1
    strangers: tuple[str, ...]  # special tokens that are no entries


AGREED = (("vocabulary", "vocabulary"), ("template", "chat template"), ("eos", "end token"), ("pad", "pad token"))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _token(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def read_tokens(folder: Path) -> Tokens | None:
    """The tokenizer of a model folder, or None where it has no fast tokenizer to read."""
    tokenizer, config = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
    if not tokenizer:
        return None
    vocab = tokenizer["model"].get("vocab", {})
    entries = dict(vocab) if isinstance(vocab, dict) else {entry[0]: index for index, entry in enumerate(vocab)}
    entries |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    rules = {name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer")}
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    eos, pad = _token(config.get("eos_token")), _token(config.get("pad_token"))
    return Tokens(vocabulary=digest([sorted(entries.items()), tokenizer["model"].get("merges"), rules]),
                  template=digest(template) if template else None, eos=eos, pad=pad,
                  size=max(entries.values(), default=-1) + 1,
                  strangers=tuple(token for token in (eos, pad) if token is not None and token not in entries))


def check_model(folder: Path, *, where: str, weights: bool = True) -> None:
    """A model folder is whole, its tokenizer fits its embedding, and its end and pad tokens are entries of it; without
    `weights` it need not have its weights yet."""
    config = _json(folder / "config.json")
    if not config:
        raise UserError(f"{where}: {folder} has no config.json, so it is not a Hugging Face model")
    if not any(folder.glob("*.safetensors")) and (weights or any(folder.glob("*.bin"))):
        raise UserError(f"{where}: {folder} has no *.safetensors weights")
    tokens = read_tokens(folder)
    if tokens is None:
        raise UserError(f"{where}: {folder} has no tokenizer.json")
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size", tokens.size))
    if isinstance(size, bool) or not isinstance(size, int):
        raise UserError(f"{where}: vocab_size={size!r} in {folder / 'config.json'} is no whole number; it must be the "
                        "number of rows of the model's embedding")
    if tokens.size > size:
        raise UserError(f"{where}: the tokenizer in {folder} has {tokens.size} entries, but the model embeds {size}; "
                        f"they do not belong together")
    if tokens.strangers:
        raise UserError(f"{where}: {folder / 'tokenizer_config.json'} names the end or pad token "
                        f"{tokens.strangers[0]!r}, which is no entry of tokenizer.json; they do not belong together")


def check_handoff(before: Path, after: Path, *, where: str) -> None:
    """A stage that got one model and made another kept the tokenizer; it may add what was not set."""
    old, new = read_tokens(before), read_tokens(after)
    if old is None or new is None:
        return
    for field, name in AGREED:
        was, now = getattr(old, field), getattr(new, field)
        if was is not None and was != now:
            detail = "" if field in ("vocabulary", "template") else f" ({was} and {now})"
            raise UserError(f"{where}: the {name} of {before} and {after} differ{detail}; models of one chain must "
                            f"share their tokenizer")


def check_agreement(models: Mapping[str, Path], *, where: str) -> None:
    """Models that answer the same prompts read the same tokens; one may leave unsaid what another says."""
    tokens = {role: read_tokens(folder) for role, folder in models.items()}
    for field, name in AGREED:
        said = {role: getattr(found, field) for role, found in tokens.items() if found and getattr(found, field)}
        first = next(iter(said), "")
        for role in said:
            if said[role] != said[first]:
                raise UserError(f"{where}: the {name} of {first} ({models[first]}) and {role} ({models[role]}) differ; "
                                f"what is compared must share its tokenizer, so evaluate them apart")


MODEL_TYPES = ("model", "reward_model", "process_reward")
LAYOUT = {"completions": ("questions.jsonl", "completions.jsonl"), "verdicts": ("verdicts.jsonl",),
          "pairs": ("train.jsonl", "dev.jsonl"), "reward_model": ("reward.json", "reward.safetensors"),
          "process_reward": ("process.json", "process.safetensors"),
          "evaluation": ("evaluation.json",), "model": ()}


def check_whole(what: str, folder: Path, *, where: str) -> None:
    """A folder holds the files of what it is, a model's fitting each other."""
    for name in LAYOUT[what]:
        if not (folder / name).is_file():
            raise UserError(f"{where}: {folder} has no {name}, which a {what} must have")
    if what in MODEL_TYPES:
        check_model(folder, where=where)


def check_artifact(stage: PlannedStage, folder: Path, inputs: Mapping[str, Path]) -> None:
    """What a stage made, or what it adopts, is what its kind makes and fits what it was made from."""
    check_whole(stage.kind.makes, folder, where=f"stage {stage.name}")
    if stage.kind.makes in MODEL_TYPES:
        parent = inputs.get("model") or inputs.get("policy")
        if parent is not None and not stage.adopted:
            check_handoff(parent, folder, where=f"stage {stage.name}")


def check_inputs(stage: PlannedStage, inputs: Mapping[str, Path]) -> None:
    """What a stage reads is whole, and its models agree where it needs them to: a critic and its policy, and all
    policies of an evaluation, whose prompts are measured by the first one's tokenizer."""
    for role, folder in inputs.items():
        check_whole(stage.kind.wants(role), folder, where=f"{stage.name}.inputs.{role}")
    if getattr(stage.config, "critic_from", None) == "reward_model":
        check_handoff(inputs["policy"], inputs["reward_model"], where=f"{stage.name}.critic_from=reward_model")
    if stage.kind.makes == "evaluation":
        policies = {role: folder for role, folder in inputs.items() if stage.kind.wants(role) == "model"}
        check_agreement(policies, where=f"{stage.name}.inputs")
