"""Kept replies: nothing is asked for twice, nothing half-written counts, and a recorded run asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data.rows import write_rows
from data.schema import UserError
from reward.judge import Reply, Request, schema_of
from reward.replies import FILE, KeptReply, Replies, read_recorded

SCHEMA = schema_of(correctness=["correct", "wrong"])


def request(text: str) -> Request:
    return Request([{"role": "user", "content": text}], SCHEMA)


class Asked:
    """An `Ask` that answers last things first, and breaks when it meets the text it was told to."""

    def __init__(self, breaks_at: str | None = None) -> None:
        self.seen: list[str] = []
        self.breaks_at = breaks_at

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(requests))):
            text = requests[place].messages[-1]["content"]
            if text == self.breaks_at:
                raise UserError("broken")
            self.seen.append(text)
            yield place, Reply(f"to {text}", {"Yes": 0.25}, 5, 2)


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_equal_requests_are_one_and_order_is_kept(tmp_path: Path) -> None:
    ask = Asked()
    replies = Replies(ask, tmp_path, model="m")
    assert texts(replies([request("a"), request("b"), request("a")])) == ["to a", "to b", "to a"]
    assert texts(replies([request("b"), request("c")])) == ["to b", "to c"]
    assert sorted(ask.seen) == ["a", "b", "c"] and replies.asked == 3
    assert [kept.text for kept in replies.used.values()] == ["to a", "to b", "to c"]


def test_what_arrived_before_an_error_is_not_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broken"):
        Replies(Asked(breaks_at="b"), tmp_path, model="m")([request(text) for text in "abcd"])
    ask = Asked()
    again = Replies(ask, tmp_path, model="m")
    assert again([request(text) for text in "abcd"]) == [Reply(f"to {text}", {"Yes": 0.25}, 5, 2) for text in "abcd"]
    assert sorted(ask.seen) == ["a", "b"]


def test_what_decides_a_reply_is_in_its_key_and_the_rest_is_not(tmp_path: Path) -> None:
    for settings in ({"model": "m"}, {"model": "n"}, {"model": "m", "temperature": 1.0}):
        ask = Asked()
        Replies(ask, tmp_path, **settings)([request("a")])
        assert ask.seen == ["a"]
    assert request("a").key() != Request([{"role": "user", "content": "a"}]).key()
    assert request("a").key() != Request([{"role": "system", "content": "a"}], SCHEMA).key()
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_a_file_that_is_no_reply_counts_for_nothing(tmp_path: Path) -> None:
    Replies(Asked(), tmp_path, model="m")([request("a")])
    [path] = tmp_path.rglob("*.json")
    for content in ("", path.read_text()[:20], '{"key": 3}', "[]"):
        path.write_text(content)
        ask = Asked()
        assert texts(Replies(ask, tmp_path, model="m")([request("a")])) == ["to a"] and ask.seen == ["a"]


def test_a_recorded_run_asks_nobody(tmp_path: Path) -> None:
    live = Replies(Asked(), tmp_path / "kept", model="m")
    said = live([request("a"), request("b")])
    write_rows(tmp_path / FILE, live.used.values())
    for place in (tmp_path, tmp_path / FILE):
        replayed = Replies(None, None, recorded=read_recorded(place), model="m")
        assert replayed([request("b"), request("a")]) == said[::-1] and replayed.asked == 0
    with pytest.raises(UserError, match=r"1 of 2 requests are not among the recorded .* \(the first one asks: 'c'\)"):
        replayed([request("a"), request("c")])
    with pytest.raises(UserError, match="no such file of recorded replies"):
        read_recorded(tmp_path / "kept")


def test_the_written_rows_are_the_same_whatever_came_from_before(tmp_path: Path) -> None:
    """In the order of use, which does not depend on what arrived first or was there."""
    rows = []
    for folder, before in (("one", ""), ("two", "bd")):
        Replies(Asked(), tmp_path / folder, model="m")([request(text) for text in before])
        replies = Replies(Asked(), tmp_path / folder, model="m")
        replies([request(text) for text in "abcd"])
        rows.append(list(replies.used.values()))
    assert rows[0] == rows[1] and all(isinstance(row, KeptReply) for row in rows[0])


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    replies = Replies(Asked(), None, model="m")
    assert texts(replies([request("a")])) == texts(replies([request("a")])) == ["to a"]
    assert replies.asked == 1 and not list(tmp_path.iterdir())
