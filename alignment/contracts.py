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
    return Tokens(vocabulary=digest([sorted(entries.items()), tokenizer["model"].get("merges"), rules]),
                  template=digest(template) if template else None, eos=_token(config.get("eos_token")),
                  pad=_token(config.get("pad_token")), size=max(entries.values(), default=-1) + 1)


def check_model(folder: Path, *, where: str) -> None:
    """A model folder is whole and its tokenizer fits its embedding."""
    config = _json(folder / "config.json")
    if not config:
        raise UserError(f"{where}: {folder} has no config.json, so it is not a Hugging Face model")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{where}: {folder} has no *.safetensors weights")
    tokens = read_tokens(folder)
    if tokens is None:
        raise UserError(f"{where}: {folder} has no tokenizer.json")
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if size is not None and tokens.size > size:
        raise UserError(f"{where}: the tokenizer in {folder} has {tokens.size} entries, but the model embeds {size}; "
                        f"they do not belong together")


def check_handoff(before: Path, after: Path, *, where: str) -> None:
    """A stage that got one model and made another kept the tokenizer; it may add what was not set."""
    old, new = read_tokens(before), read_tokens(after)
    if old is None or new is None:
        return
    for field, name in (("vocabulary", "vocabulary"), ("template", "chat template"), ("eos", "end token"),
                        ("pad", "pad token")):
        was, now = getattr(old, field), getattr(new, field)
        if was is not None and was != now:
            detail = "" if field in ("vocabulary", "template") else f" ({was} and {now})"
            raise UserError(f"{where}: the {name} of {before} and {after} differ{detail}; models of one chain must "
                            f"share their tokenizer")


MODEL_TYPES = ("model", "reward_model")
LAYOUT = {"completions": ("questions.jsonl", "completions.jsonl"), "verdicts": ("verdicts.jsonl",),
          "pairs": ("train.jsonl", "dev.jsonl"), "reward_model": ("reward.json", "reward.safetensors"),
          "evaluation": ("evaluation.json",), "model": ()}


def check_artifact(stage: PlannedStage, folder: Path, inputs: Mapping[str, Path]) -> None:
    """What a stage made, or what it adopts, is what its kind makes and fits what it was made from."""
    for name in LAYOUT[stage.kind.makes]:
        if not (folder / name).is_file():
            raise UserError(f"stage {stage.name}: {folder} has no {name}, which a {stage.kind.makes} must have")
    if stage.kind.makes in MODEL_TYPES:
        check_model(folder, where=f"stage {stage.name}")
        parent = inputs.get("model") or inputs.get("policy")
        if parent is not None and not stage.adopted:
            check_handoff(parent, folder, where=f"stage {stage.name}")


def check_inputs(stage: PlannedStage, inputs: Mapping[str, Path]) -> None:
    """The models a stage reads are whole, and agree where it needs them to."""
    for role, folder in inputs.items():
        if (folder / "config.json").is_file():
            check_model(folder, where=f"{stage.name}.inputs.{role}")
    if getattr(stage.config, "critic_from", None) == "reward_model":
        check_handoff(inputs["policy"], inputs["reward_model"], where=f"{stage.name}.critic_from=reward_model")
