"""Rendering and masks: golden tokens, what is trained on, other people's templates, offsets."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from data.chat import (
    IGNORED,
    completion_ids,
    render_conversation,
    render_document,
    render_example,
    render_pair,
    render_prompt,
    token_offsets,
)
from data.schema import Document, Message, PreferencePair, Question, UserError
from data.tokenizer import build_tokenizer

TEXTS = ["Debt: 6.5 + 2.1 = 8.6 billion", "What is the growth of revenue?", "毛利率是百分之几？", "Answer: 15%"] * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
FORGETFUL = (  # writes only the last message
    "{{ messages[-1]['content'] }}{% if add_generation_prompt %}:{% endif %}")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(TEXTS, vocab_size=300)


def with_template(tokenizer: PreTrainedTokenizerFast, template: str | None) -> PreTrainedTokenizerFast:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def learnt(tokenizer: PreTrainedTokenizerFast, labels: list[int]) -> str:
    return str(tokenizer.decode([label for label in labels if label != IGNORED]))


def test_golden_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = render_example(tokenizer, [user("1 + 2")], " 3")
    assert tokenizer.convert_ids_to_tokens(ids) == ["<user>", "1", "Ġ+", "Ġ2", "<assistant>", "Ġ", "3", "<eos>"]
    assert tokenizer.decode(ids) == "<user>1 + 2<assistant> 3<eos>"
    assert learnt(tokenizer, labels) == " 3<eos>"
    assert ids[0] == 2 and ids[-1] == tokenizer.eos_token_id == 1


def test_a_question_is_its_prompt_as_a_user_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    question = Question(id="q", source="file", kind="k", language="en", prompt="What is the growth?", steps=(),
                        answer="1", operand_key="o")
    assert render_prompt(tokenizer, question) == render_prompt(tokenizer, [user("What is the growth?")])


@settings(max_examples=30, deadline=None)
@given(prompt=st.text(min_size=1, max_size=30), text=st.text(max_size=30))
@pytest.mark.parametrize("template", [None, CHATML], ids=["ours", "chatml"])
def test_mask_covers_the_completion_and_nothing_else(tokenizer: PreTrainedTokenizerFast, template: str | None,
                                                     prompt: str, text: str) -> None:
    chat = tokenizer if template is None else with_template(tokenizer, template)
    ids, labels = render_example(chat, [user(prompt)], text)
    start = render_prompt(chat, [user(prompt)])
    completion = completion_ids(chat, text)
    assert ids == start + completion  # what a policy that continues the prompt would have to sample
    assert labels == [IGNORED] * len(start) + completion
    assert completion[-1] == chat.eos_token_id and completion[:-1].count(chat.eos_token_id) == text.count("<eos>")
    assert render_conversation(chat, [user(prompt), assistant(text)]) == (ids, labels)


def test_a_truncated_completion_has_no_eos_and_a_written_one_is_not_doubled(tokenizer: PreTrainedTokenizerFast) -> None:
    assert completion_ids(tokenizer, "15%", finished=False) == completion_ids(tokenizer, "15%")[:-1]
    assert completion_ids(tokenizer, "15%<eos>") == completion_ids(tokenizer, "15%")
    assert completion_ids(tokenizer, "") == [tokenizer.eos_token_id]
    assert completion_ids(tokenizer, "", finished=False) == []


STEP = PreferencePair(id="p", prompt=[user("1 + 2 + 3?")], prefix="1 + 2 = 3\n", chosen="3 + 3 = 6\n",
                      rejected="3 + 3 = 7", origin="rule", annotator="rule", kind="process")


@pytest.mark.parametrize(("template", "start"), [
    (None, "<user>1 + 2 + 3?<assistant>"), (CHATML, "<|im_start|>user\n1 + 2 + 3?<eos>\n<|im_start|>assistant\n"),
    (TRIMMING, "<|im_start|>user\n1 + 2 + 3?<eos>\n<|im_start|>assistant\n")], ids=["ours", "chatml", "trimming"])
def test_a_step_goes_on_with_the_assistants_turn(tokenizer: PreTrainedTokenizerFast, template: str | None,
                                                 start: str) -> None:
    """Golden text and tokens: no second turn, and no EOS but after the answer's last step."""
    chat = tokenizer if template is None else with_template(tokenizer, template)
    prompt, chosen, rejected = render_pair(chat, STEP)
    texts = [chat.decode(ids) for ids in (prompt, chosen, rejected)]
    assert texts == [start + "1 + 2 = 3\n", "3 + 3 = 6\n", "3 + 3 = 7<eos>"]
    whole = completion_ids(chat, "1 + 2 = 3\n3 + 3 = 7")
    assert prompt + rejected == render_prompt(chat, STEP.prompt) + whole  # what a policy samples


def test_golden_tokens_of_a_step(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, chosen, rejected = (tokenizer.convert_ids_to_tokens(ids) for ids in render_pair(tokenizer, STEP))
    assert prompt == ["<user>", "1", "Ġ+", "Ġ2", "Ġ+", "Ġ", "3", "?", "<assistant>", "1", "Ġ+", "Ġ2", "Ġ=", "Ġ", "3",
                      "Ċ"]
    assert chosen == ["3", "Ġ+", "Ġ", "3", "Ġ=", "Ġ6", "Ċ"]
    assert rejected == ["3", "Ġ+", "Ġ", "3", "Ġ=", "Ġ", "7", "<eos>"]


def test_a_token_over_the_seam_belongs_to_both_sides(tokenizer: PreTrainedTokenizerFast) -> None:
    """A tokenizer that makes one token of two line breaks: the begun answer keeps what all share."""
    merging = copy.deepcopy(tokenizer)
    merging.add_tokens(["\n\n"])
    seam = dataclasses.replace(STEP, prefix="a\n", chosen="\nb", rejected="\nc")
    prompt, chosen, rejected = render_pair(merging, seam)
    assert len(merging("\n\n", add_special_tokens=False)["input_ids"]) == 1
    assert merging.decode(prompt).endswith("<assistant>a")
    assert [merging.decode(ids) for ids in (chosen, rejected)] == ["\n\nb<eos>", "\n\nc<eos>"]


def test_a_whole_answer_is_rendered_as_ever(tokenizer: PreTrainedTokenizerFast) -> None:
    """Also where its text ends with a line break."""
    whole = dataclasses.replace(STEP, kind="outcome", prefix="", chosen="6\n")
    prompt, chosen, rejected = render_pair(tokenizer, whole)
    assert prompt == render_prompt(tokenizer, whole.prompt)
    assert chosen == completion_ids(tokenizer, "6\n") and rejected == completion_ids(tokenizer, "3 + 3 = 7")


CHAT = [{"role": "system", "content": "be brief"}, user("1 + 2?"), assistant(" 3"), user("and 2 + 2?"), assistant(" 4")]


@pytest.mark.parametrize("template", [None, CHATML, TRIMMING], ids=["ours", "chatml", "trimming"])
def test_loss_is_on_the_assistants_turns_only(tokenizer: PreTrainedTokenizerFast, template: str | None) -> None:
    chat = tokenizer if template is None else with_template(tokenizer, template)
    ids, labels = render_conversation(chat, CHAT)
    assert learnt(chat, labels) == " 3<eos> 4<eos>"
    assert all(label in (IGNORED, i) for i, label in zip(ids, labels, strict=True))
    text = str(chat.decode(ids))
    whole = str(chat.apply_chat_template(CHAT, tokenize=False))
    if template is not TRIMMING:
        assert whole.startswith(text)
        assert whole[len(text):].strip() == ""  # a newline after the last turn, which no policy has to write


def test_the_library_marks_the_same_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Our template says with `generation` what is the assistant's; TRL reads that."""
    ids, labels = render_conversation(tokenizer, CHAT)
    found = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == ids
    assert found["assistant_masks"] == [int(label != IGNORED) for label in labels]


@pytest.mark.parametrize(("messages", "message"), [
    ([user("a")], "ends with the assistant's"),
    ([assistant("a")], "starts with a user or system"),
    ([], "is empty"),
    ([{"role": "user"}, assistant("b")], r"messages\[0\].content is None; it must be text"),
    ([user("a"), {"role": "oracle", "content": "x"}, assistant("b")], "oracle"),
])
def test_conversations_that_cannot_be_trained_on(tokenizer: PreTrainedTokenizerFast, messages: list[Message],
                                                 message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_conversation(tokenizer, messages)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = with_template(tokenizer, FORGETFUL)
    assert learnt(chat, render_conversation(chat, [user("a"), assistant("b")])[1]) == "b<eos>"
    with pytest.raises(UserError, match="rewrites earlier turns"):
        render_conversation(chat, CHAT)


def test_a_prompt_must_leave_something_to_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="the last one is the assistant's"):
        render_prompt(tokenizer, [user("a"), assistant("b")])


@pytest.mark.parametrize(("field", "message"), [("chat_template", "no chat template"), ("eos_token", "no EOS token"),
                                                ("pad_token", "no pad token")])
def test_unfit_tokenizers_are_named(tokenizer: PreTrainedTokenizerFast, field: str, message: str) -> None:
    other = copy.deepcopy(tokenizer)
    setattr(other, field, None)
    with pytest.raises(UserError, match=message):
        render_prompt(other, [user("a")])


def test_documents_learn_their_trained_pieces_and_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    drill = Document(id="d", source="drill", segments=((" 46 - 40 =", False), (" 6\n", True), (" 7 + 1 =", False),
                                                       (" 8\n", True)))
    ids, labels = render_document(tokenizer, drill)
    assert tokenizer.decode(ids) == drill.text + "<eos>"
    assert learnt(tokenizer, labels) == " 6\n 8\n<eos>"
    given = Document(id="d", source="file", segments=(("46", True), (" - 40", False)))
    assert learnt(tokenizer, render_document(tokenizer, given)[1]) == "46"
    assert render_document(tokenizer, Document(id="e", source="file", segments=(("", True),)))[0] == [1]


def test_a_document_starts_with_bos_where_the_tokenizer_says_so(tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<bos>"})
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", other.bos_token_id)])
    ids, labels = render_document(other, Document(id="d", source="file", segments=(("15%", True),)))
    assert ids[0] == other.bos_token_id and labels[0] == IGNORED and ids.count(other.bos_token_id) == 1
    assert ids[1:] == render_document(tokenizer, Document(id="d", source="file", segments=(("15%", True),)))[0]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=25))
def test_offsets_cover_the_text_without_tokenising_it_again(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = completion_ids(tokenizer, text)
    spans = token_offsets(tokenizer, ids)
    decoded = str(tokenizer.decode(ids[:-1]))
    assert len(spans) == len(ids) and spans[-1] == (len(decoded), len(decoded))
    assert {place for first, last in spans for place in range(first, last)} == set(range(len(decoded)))
    assert all(a <= b and a <= c for (a, b), (c, _) in itertools.pairwise(spans))


def test_offsets_of_split_characters_and_plain_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = completion_ids(tokenizer, "1🙂2", finished=False)
    spans = token_offsets(tokenizer, ids)
    assert spans[0] == (0, 1) and spans[-1] == (2, 3)
    assert spans[1:-1] == [(1, 2)] * (len(ids) - 2) and len(ids) >= 4
    found = tokenizer("Debt: 6.5 + 2.1", add_special_tokens=False, return_offsets_mapping=True)
    assert token_offsets(tokenizer, found["input_ids"]) == found["offset_mapping"]


def test_offsets_of_bytes_that_are_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = completion_ids(tokenizer, "🙂", finished=False)[:2] + completion_ids(tokenizer, "5", finished=False)
    spans = token_offsets(tokenizer, ids)
    assert spans[-1][1] == len(str(tokenizer.decode(ids))) and len(spans) == 3
