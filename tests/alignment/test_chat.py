"""Talking to the embedded base model, which has learnt nothing yet but answers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from alignment import chat, conversation
from alignment.conversation import Speaker
from tests.alignment.tiny_model import tiny_model


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker.load("embedded")


def spoken(speaker: Speaker, lines: list[str], *options: str) -> str:
    asked = chat.parser().parse_args(["embedded", "--max-new-tokens=8", *options])
    out, waiting = io.StringIO(), lines[:]

    def read(prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    conversation.talk(speaker, asked, read=read, out=out)
    return out.getvalue()


def test_a_conversation_remembers_until_told_to_forget(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def reply(speaker: Speaker, messages: list[dict[str, str]], asked: object, out: object) -> str:
        seen.append([message["role"] for message in messages])
        return "yes"

    monkeypatch.setattr(conversation, "reply", reply)
    said = spoken(speaker, ["1 + 1?", "", "and?", "/new", "2 + 2?", "/nwe", "/quit", "not read"], "--system=Be short.")
    assert seen == [["system", "user"], ["system", "user", "assistant", "user"], ["system", "user"]]
    assert "/nwe: there is no such command" in said


def test_an_answer_is_streamed_and_greedy_answers_repeat(speaker: Speaker) -> None:
    first, second = (spoken(speaker, ["1 + 1?"]) for _ in range(2))
    assert first == second and len(first.splitlines()) >= 2
    drawn = {spoken(speaker, ["1 + 1?"], "--temperature=2", f"--seed={seed}") for seed in range(4)}
    assert len(drawn) > 1
    assert spoken(speaker, ["1 + 1?"], "--temperature=2", "--seed=1") in drawn


def test_a_prompt_that_is_too_long_is_said_and_the_conversation_goes_on(speaker: Speaker) -> None:
    said = spoken(speaker, ["1 " * 3000, "1 + 1?"])
    assert "positions" in said and "start anew with /new" in said
    assert said.splitlines()[-1]


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert conversation.printable("a\x1b[2Jb\r\x07\n\tc\x9b") == "a[2Jb\n\tc"


def test_models_side_by_side_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    Speaker.load("embedded").model.save_pretrained(other)
    Speaker.load("embedded").tokenizer.save_pretrained(other)
    (tmp_path / "a.txt").write_text("1 + 1?\n\n[bold]2 + 2?\n")
    out = tmp_path / "out.jsonl"
    assert chat.main(["embedded", str(other), "--prompts", str(tmp_path / "a.txt"), "--out", str(out),
                      "--max-new-tokens=6"]) == 0
    assert "[bold]2 + 2?" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["1 + 1?", "[bold]2 + 2?"]
    assert all(row["answers"]["embedded"] == row["answers"][str(other)] for row in rows)


def test_prompts_from_a_table_leave_the_answer_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "1?", "completion": "1"}) + "\n" + json.dumps({"messages": [
        {"role": "user", "content": "2?"}]}) + "\n")
    assert [[message["content"] for message in prompt] for prompt in conversation.read_prompts(str(path))] == [["1?"],
                                                                                                               ["2?"]]


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    tiny_model().save_pretrained(tmp_path / "bare")
    for arguments, said in {("none",): "not a Hugging Face model folder", ("a", "b"): "need --prompts",
                            ("a", "--out=x"): "need --prompts", ("a", "--temperature=-1"): "at least 0",
                            ("embedded", "embedded", f"--prompts={tmp_path / 'empty.txt'}"): "named twice",
                            ("embedded", f"--prompts={tmp_path / 'empty.txt'}"): "has no prompt",
                            ("embedded", f"--prompts={tmp_path / 'none.txt'}"): "none.txt"}.items():
        assert chat.main(arguments) == 2, arguments
        assert said in capsys.readouterr().err
    assert chat.main(["--help"]) == 0 and chat.main([]) == 2
