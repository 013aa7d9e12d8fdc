"""What can be done on the page, and its key: the one list that the page, its help and its settings are made from.

A key is a place on the keyboard (`event.code`), so that it is the same under any layout and any input method. `Shift+`
may stand before it. An annotator's own choice is kept in their preferences; the page refuses two actions of one task on
a key.
"""

from __future__ import annotations

import dataclasses

from data.annotate.records import TaskKind

LETTERS = "abcdef"  # answers that a letter leads to; further ones are reached with next and previous
ALL: tuple[TaskKind, ...] = ("pairwise", "ranking", "rating", "stepwise")
SEVERAL: tuple[TaskKind, ...] = ("ranking", "rating")


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """`name` is its word in data/annotate/words.py too, as `do.<name>`."""

    name: str
    key: str
    kinds: tuple[TaskKind, ...] = ALL


ACTIONS = (
    Action("prefer_a", "KeyA", ("pairwise",)), Action("prefer_b", "KeyB", ("pairwise",)),
    Action("slightly", "Digit1", ("pairwise",)), Action("better", "Digit2", ("pairwise",)),
    Action("much", "Digit3", ("pairwise",)), Action("tie", "KeyT", ("pairwise",)),
    Action("both_bad", "KeyX", ("pairwise", "ranking")), Action("differences", "KeyV", ("pairwise",)),
    *(Action(f"answer_{letter}", f"Key{letter.upper()}", SEVERAL) for letter in LETTERS),
    *(Action(f"rank_{n}", f"Digit{n}", ("ranking",)) for n in range(1, 10)),
    *(Action(f"rate_{n}", f"Digit{n % 10}", ("rating",)) for n in range(1, 11)),
    Action("right", "Digit1", ("stepwise",)), Action("neutral", "Digit2", ("stepwise",)),
    Action("wrong", "Digit3", ("stepwise",)), Action("first_error", "KeyE", ("stepwise",)),
    Action("correct", "KeyC", ("stepwise",)), Action("decline", "KeyD", ("stepwise",)),
    Action("clear", "Backspace", ("stepwise",)),
    Action("submit", "Enter"), Action("undo", "KeyU"), Action("next", "KeyJ"), Action("previous", "KeyK"),
    Action("reason", "KeyN"), Action("tags", "KeyL"), Action("mark", "KeyM"), Action("rewrite", "KeyW"),
    Action("skip", "KeyS"), Action("flag", "KeyP"),
    Action("written", "KeyR"), Action("unfold", "KeyO"), Action("evidence", "KeyI"), Action("guideline", "KeyG"),
    Action("scroll_down", "ArrowDown"), Action("scroll_up", "ArrowUp"),
    Action("page_down", "Space"), Action("page_up", "Shift+Space"),
    Action("help", "Slash"), Action("keys", "Comma"), Action("progress", "KeyQ"), Action("language", "KeyY"),
    Action("theme", "KeyH"),
)


def clashes(keys: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs of actions that one kind of task would have on the same key; `keys` are an annotator's own, by action."""
    found = []
    for place, one in enumerate(ACTIONS):
        for other in ACTIONS[place + 1:]:
            if set(one.kinds) & set(other.kinds) and keys.get(one.name, one.key) == keys.get(other.name, other.key):
                found.append((one.name, other.name))
    return found


def to_json() -> list[dict[str, object]]:
    """The list as the page reads it."""
    return [dataclasses.asdict(action) for action in ACTIONS]
