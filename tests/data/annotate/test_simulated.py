"""The shipped simulated pairs come out of the desk's own API, row for row."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.finance.annotators import SHIPPED, simulated_pairs
from data.rows import read_rows
from data.schema import PreferencePair
from tests.data.annotate.simulated import main, remade


def test_what_the_annotators_decide_comes_out_of_the_desk(tmp_path: Path) -> None:
    assert remade(tmp_path, count=12) == simulated_pairs(12) == read_rows(SHIPPED, PreferencePair)[:12]


@pytest.mark.slow
def test_the_whole_shipped_file_comes_out_of_the_desk(tmp_path: Path) -> None:
    assert main([str(tmp_path / "out.jsonl")]) == 0
    assert read_rows(tmp_path / "out.jsonl", PreferencePair) == read_rows(SHIPPED, PreferencePair)


def test_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and "usage" in capsys.readouterr().err
