"""Causal language models on disk: make one, load one, save one.

A model folder is Hugging Face's: config.json, *.safetensors, tokenizer files with the chat template and
generation_config.json. Weights in pickle files and code shipped with a model are refused. The module knows no stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from alignment.adapters import merged, save_adapter
from data.schema import UserError
from data.tokenizer import read_tokenizer

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)  # given to base models that ship without a template; the folder saved after training carries it

CARD = """---
library_name: transformers
tags: [finalign]
---
# {name}

{description}

{parameters:,} parameters, {architecture}, vocabulary of {vocabulary:,}, weights in {dtype}.
Made by [finalign](https://pypi.org/project/finalign/); load it with
`transformers.AutoModelForCausalLM.from_pretrained(folder)`.
"""


def _checked_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, after refusing what must not be loaded."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json, so this is not a Hugging Face model folder")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") not in CONFIG_MAPPING:
        raise UserError(f"{path}: model_type {config.get('model_type')!r} needs code that comes with the model, which "
                        "is never run; use an architecture that the installed transformers knows")
    if not any(folder.glob("*.safetensors")):
        found = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        raise UserError(f"{folder}: no *.safetensors weights (found {found or 'none at all'}); pickle files can run "
                        "code when they are read and are refused: convert them with "
                        "`model.save_pretrained(folder)` in an environment you trust")
    return config


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the right, with an EOS, a pad token and a chat template.

    A tokenizer without a pad token pads with EOS (labels and masks never look at the pad id); one without a chat
    template gets `PLAIN_TEMPLATE`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    tokenizer = read_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no EOS token, so no completion could ever end; set "
                        "`eos_token` in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.padding_side = "right"
    return tokenizer


def load_policy(folder: str | Path, *, dtype: str = "float32") -> PreTrainedModel:
    """The folder's causal LM on the CPU, in training form, agreeing with its tokenizer on pad and EOS.

    Raises UserError where weights are missing or of other shapes than the config's, and where the vocabulary is smaller
    than the tokenizer's.
    """
    folder = Path(folder)
    _checked_config(folder)
    tokenizer = load_tokenizer(folder)
    model = _load(folder, dtype=getattr(torch, dtype))
    check_vocabulary(model, tokenizer, where=str(folder))
    set_special_tokens(model, tokenizer)
    return model


def _load(folder: Path, **options: Any) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    loaded: Any  # the annotation knows nothing of output_loading_info
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False, local_files_only=True,
            ignore_mismatched_sizes=True, output_loading_info=True, **options)
    except Exception as error:  # what a config can break is open-ended
        raise UserError(f"{folder}: transformers cannot load this model ({_in_a_line(error)}); see that config.json "
                        "and the weights belong together") from error
    model: PreTrainedModel
    model, loading = loaded
    for name, stored, wanted in sorted(loading["mismatched_keys"]):
        raise UserError(f"{folder}: {name} is {list(stored)} in the weights, but config.json makes it {list(wanted)}; "
                        "they do not belong together")
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{folder}: config.json speaks of {missing[0]}, which the weights do not hold"
                        f"{f' (nor {len(missing) - 1} others)' if missing[1:] else ''}; they do not belong together")
    return model


def check_loads(folder: Path) -> None:
    """Raises UserError for a model folder that could not be trained or asked: a config that no installed architecture
    takes, weights of other names or shapes, a tokenizer without an end token, a chat template or generation settings
    that cannot be used. Reads no weights but their headers."""
    has_weights = any(folder.glob("*.safetensors"))
    if has_weights:
        _checked_config(folder)
    tokenizer = load_tokenizer(folder)
    if has_weights:
        _load(folder, device_map="meta")
    question = [{"role": "user", "content": "What is a ledger?"}]
    try:
        asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        told = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "A book."}], tokenize=False)
    except Exception as error:  # a template can raise anything
        raise UserError(f"{folder}: its chat template cannot write a question and an answer ({_in_a_line(error)}); "
                        "mend chat_template.jinja, or chat_template in tokenizer_config.json") from error
    if "What is a ledger?" not in asked or "A book." not in told:
        raise UserError(f"{folder}: its chat template leaves out what was said; mend chat_template.jinja, or "
                        "chat_template in tokenizer_config.json")
    if (folder / "generation_config.json").is_file():
        try:
            GenerationConfig.from_pretrained(folder)
        except Exception as error:
            raise UserError(f"{folder / 'generation_config.json'}: cannot be used ({_in_a_line(error)}); mend it, or "
                            "remove it") from error


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, where: str) -> None:
    """Raises UserError where the tokenizer can give an id that the model has no embedding for."""
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if rows < len(tokenizer):
        raise UserError(f"{where}: the tokenizer has {len(tokenizer)} entries but the model embeds only {rows}; "
                        "this tokenizer belongs to another model")


def set_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the model's configs name the tokenizer's pad and EOS; other EOS ids of the model keep stopping it."""
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    generation = model.generation_config or GenerationConfig()
    known = generation.eos_token_id
    others = [known] if isinstance(known, int) else list(known or [])
    others = [token for token in others if token != tokenizer.eos_token_id]
    generation.eos_token_id = [tokenizer.eos_token_id, *others] if others else tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    model.generation_config = generation


ARCHITECTURES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def new_model(tokenizer: PreTrainedTokenizerBase, *, hidden_size: int, num_layers: int, num_heads: int,
              intermediate_size: int, seed: int, architecture: str = "llama",
              max_positions: int = 1024) -> PreTrainedModel:
    """A random Llama or Qwen3 with tied embeddings, for the tokenizer's vocabulary.

    The weights come from `seed` alone; the global generator is left as it was.
    """
    if hidden_size % (2 * num_heads):
        raise UserError(f"hidden_size {hidden_size} must be a multiple of 2 x num_heads ({num_heads}): heads are "
                        "equally wide and rotary positions need an even width")
    config_class, model_class = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=len(tokenizer), hidden_size=hidden_size, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, num_key_value_heads=num_heads, head_dim=hidden_size // num_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_positions, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    set_special_tokens(model, tokenizer)
    return model


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, *,
                dtype: str = "float32", name: str | None = None, description: str = "") -> None:
    """Writes a model folder with a small card; an adapter is merged into it and also saved by itself, in adapter/.

    The model in memory keeps its own weights, dtype and device.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = getattr(torch, dtype)
    state = {key: value.detach().to("cpu", target) if value.is_floating_point() else value.detach().cpu()
             for key, value in merged(model, model.state_dict().items())}
    for tied in getattr(model, "all_tied_weights_keys", {}):  # saved once, under the name it is tied to
        state.pop(tied, None)
    parameters = sum(value.numel() for value in state.values())
    model.save_pretrained(folder, state_dict=state)
    save_adapter(model, folder / "adapter")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"dtype": dtype, "use_cache": True}  # trainers switch the cache off
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(
        name=name or folder.name, description=description or "A causal language model.",
        parameters=parameters, architecture=type(model).__name__, vocabulary=model.config.vocab_size,
        dtype=dtype), encoding="utf-8")
