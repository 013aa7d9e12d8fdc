"""`verify`: sound, tampered, unusable, each with its file named."""

import json
import shutil
from pathlib import Path

import pytest

from alignment import cli, repro
from tests.alignment.chains import Chain


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        chain = Chain(tmp_path_factory.mktemp("runs"), monkeypatch)
        assert chain.run("until=judge").code == 0
        return chain.root / "runs"


@pytest.fixture
def run_json(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "moved", symlinks=True)  # a run may be moved
    return tmp_path / "moved/ppo_fin/seed1/run.json"


def test_sound(run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro.main(["verify", str(run_json)]) == 0
    assert "sound" in capsys.readouterr().out
    assert cli.main(["repro", "verify", str(run_json.parent)]) == 0


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("name", "old", "new"), [
    ("run.json", '"accuracy": {\n', '"acuracy": {\n'),
    ("run.json", '"seed', '"sead'),
    ("config.yaml", "seed: 1", "seed: 2"),
    ("metrics.jsonl", "1.5", "1.4"),
    ("stages/sft/model.safetensors", "sft", "SFT"),
    ("stages/sft/manifest.json", "0.7", "0.8"),
])
def test_tampered(run_json: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str) -> None:
    edit(run_json.parent / name, old, new)
    assert repro.main(["verify", str(run_json)]) == 1
    assert Path(name).name in capsys.readouterr().err


def test_a_forged_digest_does_not_hide_a_forged_metric(run_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(run_json.read_text())
    content["stages"]["sft"]["metrics"]["accuracy"]["value"] = 0.99
    del content["digest"]
    run_json.write_text(json.dumps(content | {"digest": repro.digest(content)}))
    assert repro.main(["verify", str(run_json)]) == 1
    assert "stage sft: metrics" in capsys.readouterr().err


def test_an_added_file_is_tampering(run_json: Path) -> None:
    (run_json.parent / "stages/sft/extra.txt").write_text("")
    assert repro.main(["verify", str(run_json)]) == 1


@pytest.mark.parametrize("name", ["config.yaml", "stages/sft/model.safetensors", "stages/sft"])
def test_unusable(run_json: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = run_json.parent / name
    real = path.resolve()
    shutil.rmtree(real) if real.is_dir() else real.unlink()
    assert repro.main(["verify", str(run_json)]) == 2
    assert real.name in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "\x00"])
def test_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert repro.main(["verify", str(tmp_path / "run.json")]) == 2
    assert repro.main(["verify", str(tmp_path / "none.json")]) == 2
    assert repro.main(["verify"]) == 2
    assert cli.main(["verfy"]) == 2


def test_nothing_secret_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("SOME_KEY", "sk-ijklmnop")
    chain = Chain(tmp_path, monkeypatch)
    outcome = chain.run("until=pretrain")
    text = (outcome.run_dir / "run.json").read_text()
    assert "hf_abc" not in text and "sk-ijk" not in text


@pytest.mark.parametrize("content", [
    '{"format":1,"recipe":1,"status":1,"stages":[],"files":[],"digest":1}',
    '{"format":1,"recipe":1,"status":1,"stages":{"x":{"output_sha256":1}},"files":{},"digest":1}',
    "[" * 200_000,
])
def test_json_of_another_shape_is_unusable_not_tampered(tmp_path: Path, content: str,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert repro.main(["verify", str(tmp_path / "run.json")]) == 2
    assert "unusable" in capsys.readouterr().err
