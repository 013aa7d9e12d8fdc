"""Chat rendering and loss masks, for any Hugging Face tokenizer with a chat template. No other module does this.

A prompt is what the template makes of the messages, with its generation prompt. A completion is the tokens of its text
alone, then EOS; what the template would write after an assistant's turn is never trained on. So the tokens trained on
are exactly those a policy samples. Labels are the ids, or -100 where nothing is learnt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2

from data.schema import Document, Message, PreferencePair, Question, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
NEXT_STEP = {"en": "What is the next step?", "zh": "下一步是什么？"}
Example = tuple[list[int], list[int]]  # input ids, labels


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a tokenizer that cannot render a chat, end a completion or pad a batch."""
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    for missing, what, fix in (
        (tokenizer.chat_template is None, "chat template",
         "set `chat_template` in its tokenizer_config.json, or use the model's instruction-tuned version"),
        (tokenizer.eos_token_id is None, "EOS token", "set `eos_token`, without which no completion ends"),
        (tokenizer.pad_token_id is None, "pad token", "set `pad_token`; the EOS token will do"),
    ):
        if missing:
            raise UserError(f"{name}: the tokenizer has no {what}; {fix}")


def check_messages(messages: Sequence[Message], *, where: str = "messages") -> None:
    """Raises UserError unless every message has a role and a content, both text."""
    if not messages:
        raise UserError(f"{where}: is empty; a conversation has at least one message")
    for index, message in enumerate(messages):
        for field in ("role", "content"):
            value = message.get(field) if isinstance(message, dict) else None
            if not isinstance(value, str):
                raise UserError(f"{where}[{index}].{field} is {value!r}; it must be text")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def _template_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The rendered messages, ending with the generation prompt."""
    check_messages(messages)
    if messages[-1]["role"] == "assistant":
        raise UserError("messages: the last one is the assistant's, so nothing is asked; end a prompt with a user's")
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
    except jinja2.TemplateError as error:
        raise UserError(f"messages with the roles {[message['role'] for message in messages]}: the chat template of "
                        f"{tokenizer.name_or_path or 'the tokenizer'} refuses them: {error}") from error


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Question | Sequence[Message]) -> list[int]:
    """The token ids of a question or of messages, generation prompt included."""
    check_tokenizer(tokenizer)
    messages = [{"role": "user", "content": prompt.prompt}] if isinstance(prompt, Question) else prompt
    return _encode(tokenizer, _template_text(tokenizer, messages))


def completion_ids(tokenizer: PreTrainedTokenizerBase, text: str, finished: bool = True) -> list[int]:
    """The token ids of a completion; a finished one ends with one EOS, a truncated one has none."""
    ids = _encode(tokenizer, text)
    eos = tokenizer.eos_token_id
    return [*ids, eos] if finished and ids[-1:] != [eos] else ids


def render_example(tokenizer: PreTrainedTokenizerBase, prompt: Question | Sequence[Message],
                   completion: str) -> Example:
    """One prompt and its completion; the loss is on the completion and its EOS."""
    prompt_ids, ids = render_prompt(tokenizer, prompt), completion_ids(tokenizer, completion)
    return prompt_ids + ids, [IGNORED] * len(prompt_ids) + ids


def render_pair(tokenizer: PreTrainedTokenizerBase, pair: PreferencePair, *,
                ask: bool = False) -> tuple[list[int], list[int], list[int]]:
    """The token ids of prompt, chosen and rejected of a preference pair.

    What the assistant has begun belongs to the prompt, its turn left open, in the tokens that it has within the whole
    answer; a token that reaches over the seam goes to both sides. An answer, and an answer's last step, end with EOS;
    any other step does not. `ask`: the form of FinDAP (Ke et al. 2025, arXiv:2501.04961) for steps, in which a user
    turn of question and begun answer asks for the next step, and that step is an answer of its own.
    """
    sides = (pair.chosen, pair.rejected)
    if ask and pair.kind == "process":
        asked = f"{pair.prompt[-1]['content']}\n\n{pair.prefix}{NEXT_STEP.get(pair.language or 'en', NEXT_STEP['en'])}"
        prompt = render_prompt(tokenizer, [*pair.prompt[:-1], {**pair.prompt[-1], "content": asked}])
        chosen, rejected = (completion_ids(tokenizer, side.rstrip("\n")) for side in sides)
        return prompt, chosen, rejected
    answers = [completion_ids(tokenizer, pair.prefix + side, pair.kind == "outcome" or not side.endswith("\n"))
               for side in sides]
    shared = zip(_encode(tokenizer, pair.prefix), *answers)  # as far as all three go
    begun = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, shared)]
    chosen, rejected = (answer[len(begun):] for answer in answers)
    return render_prompt(tokenizer, pair.prompt) + begun, chosen, rejected


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Example:
    """A whole conversation; the loss is on every assistant turn and its EOS. It must end with one.

    With a single assistant turn this equals `render_example`. Raises UserError where the template writes earlier turns
    differently once later ones are there (it drops thoughts, say), as no mask would then be what a policy sees.
    """
    check_tokenizer(tokenizer)
    check_messages(messages)
    if messages[-1]["role"] != "assistant" or messages[0]["role"] == "assistant":
        raise UserError(f"messages: the roles are {[message['role'] for message in messages]}; a conversation to "
                        "train on starts with a user or system message and ends with the assistant's")
    ids: list[int] = []
    labels: list[int] = []
    written: list[str] = []  # what the template is known to have written; the turn may be trimmed
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        text = _template_text(tokenizer, messages[:index])
        before = next((known for known in written if text.startswith(known)), None)
        if written and before is None:
            raise UserError(f"messages[{index}]: the chat template of {tokenizer.name_or_path or 'the tokenizer'} "
                            "rewrites earlier turns; train on single-turn rows (`prompt` and `completion`)")
        between = text[len(before or ""):]
        if written:
            between = between.removeprefix(str(tokenizer.eos_token))  # it stands after the completion already
        between_ids, content_ids = _encode(tokenizer, between), completion_ids(tokenizer, message["content"])
        ids += between_ids + content_ids
        labels += [IGNORED] * len(between_ids) + content_ids
        written = [text + message["content"], text + message["content"].strip()]
    return ids, labels


def render_document(tokenizer: PreTrainedTokenizerBase, document: Document) -> Example:
    """A document's whole text and EOS. A token is learnt where its first character is in a trained piece.

    A tokenizer that starts texts with BOS does so here too. EOS is learnt where the last piece is.
    """
    if tokenizer.eos_token_id is None:
        check_tokenizer(tokenizer)
    trained = [flag for text, flag in document.segments for _ in text]
    start = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id and i != tokenizer.eos_token_id]
    eos, last = tokenizer.eos_token_id, bool(document.segments) and document.segments[-1][1]
    if not tokenizer.is_fast:  # no offsets: piece by piece
        pieces = [(_encode(tokenizer, text), flag) for text, flag in document.segments]
        ids = [i for piece, _ in pieces for i in piece]
        flags = [flag for piece, flag in pieces for _ in piece]
    else:
        found = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(found["input_ids"])
        flags = [trained[min(first, len(trained) - 1)] for first, _ in found["offset_mapping"]]
    labels = [i if flag else IGNORED for i, flag in zip(ids, flags, strict=True)]
    return [*start, *ids, eos], [*([IGNORED] * len(start)), *labels, eos if last else IGNORED]


def token_offsets(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[tuple[int, int]]:
    """(first, past the last) character of each token in the decoded completion, from the ids alone.

    The text is `tokenizer.decode(token_ids)` without a last EOS, whose span is empty. Tokens that hold the bytes of one
    character between them all have that character's span. Nothing is tokenised again.
    """
    ids = list(token_ids)
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
    body = ids[:-1] if ended else ids
    text = _decode(tokenizer, body)
    spans: list[tuple[int, int]] = []
    start = 0
    for count in range(1, len(body) + 1):
        so_far = _decode(tokenizer, body[:count])
        end = start
        while end < min(len(text), len(so_far)) and text[end] == so_far[end]:
            end += 1
        pending = end == start and len(so_far) > end  # the first bytes of a character
        spans.append((start, min(end + 1, len(text)) if pending else end))
        start = end
    return [*spans, (len(text), len(text))] if ended else spans


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
