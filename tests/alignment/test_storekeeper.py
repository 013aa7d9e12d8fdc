"""The store's commands, on a store that a chain of fake stages filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment import storekeeper
from alignment.store import Lock
from tests.alignment.chains import Chain


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    return Chain(tmp_path, monkeypatch)


def store(chain: Chain, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert storekeeper.main([*arguments, f"runs_dir={chain.root / 'runs'}"]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_what_no_run_uses_is_shown_weighed_and_deleted_on_demand(chain: Chain,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    chain.run("until=sample")
    chain.run("until=sample", "sft.num_examples=7")  # the same run's folder: its links move on
    listed = store(chain, capsys, "ls").splitlines()
    assert len(listed) == 6 and sum("no run" in line for line in listed) == 2
    assert any(line.startswith("pretrain-") and "ppo_fin/seed1" in line for line in listed)
    assert "sft" in store(chain, capsys, "du") and "together" in store(chain, capsys, "du")
    assert "gc --yes deletes these: 2 folders" in store(chain, capsys, "gc")
    assert len(store(chain, capsys, "ls").splitlines()) == 6
    assert "deleted: 2 folders" in store(chain, capsys, "gc", "--yes")
    assert len(store(chain, capsys, "ls").splitlines()) == 4
    assert "nothing to delete" in store(chain, capsys, "gc", "--yes")
    assert list((chain.root / "runs/store/.work").iterdir()) == []
    assert chain.run("until=sample", "sft.num_examples=7").started == []


def test_unfinished_work_is_collected_but_never_under_a_run(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    chain.run(sft="fail")
    assert ".work/sft-" in store(chain, capsys, "gc")
    lock = Lock(next((chain.root / "runs/store/.locks").glob("sft-*")))
    assert lock.acquire()
    assert "a run is making an artifact" in store(chain, capsys, "gc", "--yes", code=2)
    lock.release()
    assert "deleted: 1 folders" in store(chain, capsys, "gc", "--yes")


def test_mistakes_are_named(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no store" in store(chain, capsys, "ls", code=2)
    for arguments, said in {("lst",): "did you mean ls?", ("ls", "x=1"): "takes runs_dir=PATH alone",
                            ("why",): "say which stage", ("why", "recipe=ppo_fin"): "say which stage",
                            ("why", "ppoo", "recipe=ppo_fin"): "did you mean ppo?"}.items():
        assert storekeeper.main(arguments) == 2
        assert said in capsys.readouterr().err
    assert storekeeper.main(["--help"]) == 0 and storekeeper.main([]) == 2


def test_why_names_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert storekeeper.main(["why", "sft", "recipe=sft_fin", f"runs_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out == "sft: runs\n    never run\n"
