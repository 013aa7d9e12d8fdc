"""The pages' words in both languages, and the keys."""

from __future__ import annotations

import re
from pathlib import Path

import data.annotate
from data.annotate import keymap
from data.annotate.importing import ERROR_TAGS
from data.annotate.told import told
from data.annotate.words import words

FOLDER = Path(data.annotate.__file__).parent
SCRIPTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "static").glob("*.js")))
TEMPLATES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "templates").glob("*.jinja")))
SAME = {"do.language"}  # it names the other language


def test_every_word_is_there_in_both_languages() -> None:
    english, chinese = words("en"), words("zh")
    assert english.keys() == chinese.keys()
    assert [name for name, word in english.items() if re.search("[\u4e00-\u9fff]", word) and name not in SAME] == []
    assert [name for name, word in chinese.items() if not re.search("[\u4e00-\u9fff]", word) and name not in SAME
            and word not in ("{} / {}", "{} {}")] == []
    assert {name for name in english if english[name].count("{}") != chinese[name].count("{}")} == set()


def test_every_word_the_pages_ask_for_exists() -> None:
    asked = set(re.findall(r'\bw\("([\w.]+)"', SCRIPTS)) | set(re.findall(r'w\["([\w.]+)"\]', TEMPLATES))
    assert len(asked) > 60 and asked - words("en").keys() == set()


def test_every_action_has_a_key_a_word_and_something_to_do() -> None:
    assert keymap.clashes({}) == []
    for action in keymap.ACTIONS:
        assert words("en")[f"do.{action.name}"] and action.key
        assert re.search(rf"\b{re.sub('_[0-9a-f]+$', '_', action.name)}", SCRIPTS), action.name
    assert {action.name for action in keymap.ACTIONS} >= {"prefer_a", "tie", "both_bad", "skip", "undo", "submit"}


def test_a_clash_of_keys_is_found_within_a_kind_alone() -> None:
    assert keymap.clashes({"tie": "KeyA"}) == [("prefer_a", "tie")]
    assert keymap.clashes({"first_error": "KeyB"}) == []
    assert keymap.clashes({"undo": "KeyE"}) == [("answer_e", "undo"), ("first_error", "undo")]


def test_the_projects_error_tags_have_words() -> None:
    assert {f"tag.{tag}" for tag in ERROR_TAGS} <= words("en").keys()


def test_decisions_in_words() -> None:
    assert told({"outcome": "prefer", "preferred": "a", "strength": 3}, "en") == "A much better"
    assert told({"outcome": "prefer", "preferred": "b", "strength": 1}, "zh") == "B 略好"
    assert told({"outcome": "ranked", "ranking": [["b"], ["c", "a"]]}, "en") == "order B > A = C"
    assert told({"outcome": "stepped", "steps": [{"step": 0, "rating": 1}, {"step": 1, "rating": -1}]}, "en") == (
        "first error: step 2")
    assert told({"outcome": "rated", "ratings": {"a": {"x": 4, "y": 5}}}, "en") == "ratings A 4.5"
    assert told({"outcome": "tie"}, "zh") == "平局"
