"""The embedded default's tokenizer, byte-level BPE in which every digit is a token of its own; and any model's, read.

A leading space is glued to a word and to the first digit of a number, so that ` 46 - 40` costs five tokens and a
number has the same tokens wherever a space stands before it. Runs of Han characters may merge into words. Bytes are
the alphabet, so that no text is unknown. The chat template marks what an assistant said for the loss mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<eos>", "<user>", "<assistant>", "<system>")
PATTERN = r" ?\p{N}| ?\p{Han}+| ?[\p{L}\p{M}&&[^\p{Han}]]+| ?[^\s\p{L}\p{M}\p{N}]|\s+(?!\S)|\s"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('system', 'user', 'assistant') -%}"
    "{{ raise_exception('a message has the role ' ~ message['role'] ~ '; use system, user or assistant') }}"
    "{%- endif -%}"
    "{{- '<' ~ message['role'] ~ '>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] -}}{{- '<eos>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)
AS_WRITTEN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that are all that tokenizer.json says, no more


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    AutoTokenizer goes by the model: beside one of type qwen2 it splits any text by Qwen2's rules, also where the folder
    holds another tokenizer.
    """
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("tokenizer_class") if path.is_file() else None
    if named in AS_WRITTEN and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def build_tokenizer(texts: Iterable[str], *, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train on `texts`. The same texts in the same order give the same tokenizer.

    `vocab_size` counts the 256 bytes and the special tokens; a ValueError names the least that fits.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise ValueError(f"vocab_size is {vocab_size}, but bytes and special tokens alone need {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False,
        additional_special_tokens=["<user>", "<assistant>", "<system>"], padding_side="right",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
