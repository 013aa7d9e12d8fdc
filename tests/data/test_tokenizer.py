"""The tokenizer: digits, spaces, round trips, chat template and the seam between prompt and completion."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from data.finance import generator, textbook
from data.general import drills, general_documents
from data.tokenizer import SPECIAL_TOKENS, build_tokenizer


def corpus() -> list[str]:
    found = [q.prompt + "\n" + generator.solution_text(q) for q in generator.questions("train", count=1500, seed=0)]
    for documents in (textbook.passages(500, seed=0), general_documents(500, seed=0), drills(200, seed=0)):
        found += [document.text for document in documents]
    return found


TOKENIZER: PreTrainedTokenizerFast = build_tokenizer(corpus(), vocab_size=1536)


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([i]) for i in ids(text)]


def test_every_digit_is_a_token_and_takes_the_space_before_it() -> None:
    assert pieces(" 46 - 40.5 = 15%") == [" 4", "6", " -", " 4", "0", ".", "5", " =", " 1", "5", "%"]


def test_a_number_has_the_same_tokens_in_question_and_steps_in_both_languages() -> None:
    number = ids(" 46")
    for text in ("revenue of 46 million", "营收 46 亿元", "变化: 46 - 40 = 6 亿元", "\n 46 -"):
        found = ids(text)
        assert any(found[i:i + 2] == number for i in range(len(found))), pieces(text)


def test_chinese_words_merge() -> None:
    assert len(ids("净利润")) == 1
    assert pieces("答案: 6 亿元") == ["答案", ":", " 6", " 亿元"]


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    if not any(special in text for special in SPECIAL_TOKENS):
        assert TOKENIZER.decode(ids(text)) == text


def test_specials_and_size() -> None:
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token, TOKENIZER.unk_token) == ("<pad>", "<eos>", None)
    assert len(TOKENIZER) == 1536
    with pytest.raises(ValueError, match="need 261"):
        build_tokenizer(["a"], vocab_size=200)


def test_prompt_and_completion_tokenise_as_the_whole() -> None:
    for question in generator.questions("test", count=64, seed=0):
        user = {"role": "user", "content": question.prompt}
        completion = generator.solution_text(question)
        prompt = TOKENIZER.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        whole = TOKENIZER.apply_chat_template([user, {"role": "assistant", "content": completion}], tokenize=False)
        assert whole == prompt + completion + "<eos>"
        assert ids(prompt) + ids(completion) + [TOKENIZER.eos_token_id] == ids(whole)


def test_the_template_marks_what_the_assistant_said() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": " 4\n"}, {"role": "user", "content": "b"},
                {"role": "assistant", "content": "c"}]
    found = TOKENIZER.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(found["input_ids"], found["assistant_masks"]) if m]
    assert TOKENIZER.decode(marked) == " 4\n<eos>c<eos>"
    text = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert text == "<system>Be brief.<user>a<assistant> 4\n<eos><user>b<assistant>c<eos>"


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(Exception, match="role tool"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_building_twice_gives_the_same_tokenizer() -> None:
    texts = corpus()[:400]
    first, second = (build_tokenizer(texts, vocab_size=400).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_save_and_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    TOKENIZER.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded(" 46 亿元")["input_ids"] == ids(" 46 亿元")
    assert loaded.chat_template == TOKENIZER.chat_template


@pytest.mark.parametrize("language", ["en", "zh"])
def test_prompts_and_solutions_are_short(language) -> None:  # type: ignore[no-untyped-def]
    found = generator.questions("test", count=320, seed=0, languages=(language,))
    assert statistics.mean(len(ids(q.prompt)) for q in found) <= 45
    assert statistics.mean(len(ids(generator.solution_text(q))) for q in found) <= 40
