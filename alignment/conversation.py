"""What alignment/chat.py does once it knows what is asked: answers streamed to a terminal, or models side by side.

What a model writes is shown as text: control characters, which a terminal would obey, are taken out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from rich.text import Text
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from alignment.device import placed
from alignment.models import load_policy, load_tokenizer
from alignment.origin import find
from alignment.rollout import Sampling, TransformersEngine
from alignment.rollout.requests import stop_token_ids
from alignment.rollout.rows import to_completion
from alignment.seeds import derive
from data.chat import render_prompt
from data.files import conversation, read_tables
from data.rows import read_text, replacing, to_line
from data.schema import Message, UserError

CHUNK = 64  # prompts answered between two moves of the bar


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model that answers, by the name the user gave it."""

    name: str
    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, name: str) -> Speaker:
        """Raises UserError where `name` is no model."""
        path = find(name, None).path
        return cls(name, path, placed(load_policy(path)).eval(), load_tokenizer(path))

    def render(self, messages: Sequence[Message], max_new_tokens: int) -> list[int]:
        """The prompt's token ids. Raises UserError where it leaves no room for an answer."""
        ids = render_prompt(self.tokenizer, messages)
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) + max_new_tokens > room:
            raise UserError(f"{self.name} has {room} positions; {len(ids)} tokens of prompt and --max-new-tokens="
                            f"{max_new_tokens} are more. Lower it, or start anew with /new")
        return ids


def printable(text: str) -> str:
    """The text without control characters other than line breaks and tabs."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc")


class Typewriter(TextStreamer):
    """Writes an answer as it comes and keeps it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, out: TextIO) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out, self.said = out, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.said += text
        self.out.write(printable(text) + ("\n" if stream_end else ""))
        self.out.flush()


def reply(speaker: Speaker, messages: Sequence[Message], asked: argparse.Namespace, out: TextIO) -> str:
    """Streams the answer to `out` and returns it."""
    ids = torch.tensor([speaker.render(messages, asked.max_new_tokens)], device=speaker.model.device)
    typewriter = Typewriter(speaker.tokenizer, out)
    drawn = asked.temperature > 0
    config = GenerationConfig(
        max_new_tokens=asked.max_new_tokens, do_sample=drawn, temperature=asked.temperature if drawn else None,
        top_k=0 if drawn else None, pad_token_id=speaker.tokenizer.pad_token_id,
        eos_token_id=stop_token_ids(speaker.model.generation_config, speaker.model.config))
    generate: Any = speaker.model.generate
    with torch.inference_mode():
        generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=typewriter)
    return typewriter.said


def talk(speaker: Speaker, asked: argparse.Namespace, *, read: Callable[[str], str] = input,
         out: TextIO = sys.stdout) -> None:
    """A conversation until /quit or the end of the input; a mistake is said and the conversation goes on."""
    torch.manual_seed(asked.seed)
    opening: list[Message] = [{"role": "system", "content": asked.system}] if asked.system else []
    said = list(opening)
    out.write(f"{speaker.name}; /new forgets, /quit ends\n")
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/new":
            said = list(opening)
        elif line.startswith("/"):
            out.write(f"{line.split()[0]}: there is no such command; there is /new and /quit\n")
        elif line:
            turn: Message = {"role": "user", "content": line}
            try:
                answer = reply(speaker, [*said, turn], asked, out)
            except UserError as error:
                out.write(f"error: {error}\n")
                continue
            said += [turn, {"role": "assistant", "content": answer}]


def read_prompts(place: str) -> list[list[Message]]:
    """One prompt a line of a .txt file, or the rows of a table, a last answer left out. Raises UserError for none."""
    path = Path(place).expanduser()
    if path.suffix == ".txt":
        prompts: list[list[Message]] = [[{"role": "user", "content": line.strip()}]
                                        for line in read_text(path).splitlines() if line.strip()]
    else:
        prompts = [conversation(row, where=f"{table.name}: row {number}")
                   for table in read_tables(place) for number, row in enumerate(table.rows, start=1)]
        prompts = [messages[:-1] if messages[-1]["role"] == "assistant" else messages for messages in prompts]
    if not all(prompts) or not prompts:
        raise UserError(f"{place}: {'a row asks nothing' if prompts else 'has no prompt'}")
    return prompts


def answers(speaker: Speaker, prompts: Sequence[Sequence[Message]], asked: argparse.Namespace) -> list[str]:
    """One answer a prompt, in order."""
    rendered = [speaker.render(messages, asked.max_new_tokens) for messages in prompts]
    engine = TransformersEngine(speaker.path, max_length=max(map(len, rendered)) + asked.max_new_tokens,
                                model=speaker.model)
    sampling = Sampling(max_new_tokens=asked.max_new_tokens, temperature=asked.temperature)
    said: list[str] = []
    for start in track(range(0, len(rendered), CHUNK), description=printable(speaker.name),
                       console=Console(stderr=True), transient=True):
        rows = range(start, min(start + CHUNK, len(rendered)))
        generations = engine.generate([rendered[row] for row in rows], sampling,
                                      [derive(asked.seed, "chat", row) for row in rows])
        said += [to_completion(speaker.tokenizer, str(row), 0, generation).text
                 for row, generation in zip(rows, generations, strict=True)]
    return said


def side_by_side(prompts: Sequence[Sequence[Message]], said: dict[str, list[str]]) -> Table:
    """A row a prompt, a column a model."""
    shown = Table("prompt", *map(escape, said), show_lines=True)
    for row, messages in enumerate(prompts):
        shown.add_row(*(Text(printable(text)) for text in (messages[-1]["content"], *(column[row] for column
                                                                                      in said.values()))))
    return shown


def run(asked: argparse.Namespace) -> None:
    """What the command line asks for. Raises UserError."""
    if asked.prompts is None:
        talk(Speaker.load(asked.models[0]), asked)
        return
    if len(set(asked.models)) < len(asked.models):
        raise UserError(f"{asked.models[0]}: a model is named twice")
    prompts = read_prompts(asked.prompts)
    if asked.system:
        prompts = [[{"role": "system", "content": asked.system}, *messages] for messages in prompts]
    said = {name: answers(Speaker.load(name), prompts, asked) for name in asked.models}
    Console().print(side_by_side(prompts, said))
    if asked.out:
        with replacing(asked.out) as scratch:
            scratch.write_bytes(b"".join(to_line({"prompt": list(messages), "answers": {
                name: column[row] for name, column in said.items()}}) for row, messages in enumerate(prompts)))
