"""Evidence over seeds, and that the README says what the results files in docs/ say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignment import evidence
from alignment.stats import over_seeds
from data.schema import UserError
from tests.alignment.fake_run import fake_run

ROOT = Path(__file__).parents[2]
BEGIN, END = evidence.markers("ppo_fin")  # of the fake runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("evidence")
    return [fake_run(root / f"seed{seed}", seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def results(runs):
    return evidence.aggregate(runs)


def report(run):
    return json.loads((run / "stages/evaluate/evaluation.json").read_text())


def changed(run, folder, **facts):
    """A copy of a run whose run.json says something else."""
    folder.mkdir()
    (folder / "stages").symlink_to(run / "stages")
    (folder / "config.yaml").write_text((run / "config.yaml").read_text())
    (folder / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | facts))
    return folder


def test_a_mean_over_seeds_has_every_seed_beside_it(runs, results):
    values = [report(run)["differences"]["ppo - sft"]["greedy"]["value"] for run in runs]
    found = results["differences"]["ppo - sft"]["greedy"]
    whole = over_seeds(values)
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert (found["low"], found["high"]) == pytest.approx((whole.low, whole.high), abs=1e-6)
    assert [seed["value"] for seed in found["seeds"]] == pytest.approx(values, abs=1e-6)
    assert all(seed["low"] < seed["value"] < seed["high"] and seed["n"] == 120 for seed in found["seeds"])


def test_everything_evaluated_is_brought_together(runs, results):
    first = report(runs[0])
    for section in ("policies", "differences", "reward_models"):
        assert set(results[section]) == set(first[section])
    assert {"greedy", "sampled", "pass_at_4", "drills"} <= set(results["policies"]["ppo"])
    assert {"accuracy", "over_likelihood", "best_of_gain"} <= set(results["reward_models"]["reward_model"])
    assert "by_kind" not in results["policies"]["ppo"]
    assert results["seeds"] == [0, 1, 2] and results["seconds"]["stages"]["sft"] == [12.5] * 3
    assert results["machines"][2]["processor"] == "A Processor" and results["packages"]["torch"] == "2.13.0"
    assert results["seconds"]["chain"] == [90.0] * 3
    json.dumps(results, allow_nan=False)


def test_the_order_of_the_folders_does_not_matter(runs, results):
    assert evidence.aggregate(runs[::-1]) == results


def test_one_seed_has_no_interval_over_seeds(runs):
    found = evidence.aggregate(runs[:1])["policies"]["sft"]["greedy"]
    assert found["low"] is None and found["high"] is None and found["mean"] == found["seeds"][0]["value"]


@pytest.mark.parametrize(("facts", "message"), [
    ({"seeds": {"root": 0, "stages": {}}}, "same root seed"), ({"recipe": "dpo_fin"}, "differ in their recipe"),
    ({"scale": "tiny"}, "differ in their scale"), ({"packages": {"torch": "2.12.0"}}, "differ in their packages"),
    ({"code": {"alignment.stats": "00"}}, "differ in their code"), ({"status": "failed"}, "is not done"),
    ({"exactness": {"threads": 9}}, "differ in their exactness")])
def test_runs_that_are_not_comparable(tmp_path, runs, facts, message):
    with pytest.raises(UserError, match=message):
        evidence.aggregate([runs[0], changed(runs[1], tmp_path / "other", **facts)])


def test_seeds_measured_at_another_time_are_joined(tmp_path, runs, results, capsys):
    out = tmp_path / "results.json"
    assert evidence.main([str(runs[0]), str(runs[2]), "--out", str(out)]) == 0
    assert evidence.main([str(runs[1]), "--onto", str(out), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == json.loads(json.dumps(results))
    assert evidence.main([str(runs[1]), "--onto", str(out), "--out", str(out)]) == 2
    assert "share a seed: [0, 1, 2] and [1]" in capsys.readouterr().err
    other = changed(fake_run(tmp_path / "run", seed=7), tmp_path / "other", packages={"torch": "2.12.0"})
    assert evidence.main([str(other), "--onto", str(out), "--out", str(out)]) == 2
    assert "differ in their packages" in capsys.readouterr().err
    assert json.loads(out.read_text())["seeds"] == [0, 1, 2]
    assert evidence.main(["--results", str(out), "--onto", str(out)]) == 2


def test_runs_without_a_finished_evaluation(tmp_path, runs):
    with pytest.raises(UserError, match="0 finished evaluations"):
        evidence.aggregate([runs[0], fake_run(tmp_path / "run", seed=9, evaluated=False)])
    with pytest.raises(UserError, match="is not done"):
        evidence.aggregate([changed(runs[0], tmp_path / "failed", status="failed")])
    with pytest.raises(UserError, match="no run is given"):
        evidence.aggregate([])


def test_the_tables_say_what_the_results_say(results):
    text = evidence.markdown(results)
    gain = results["differences"]["ppo - sft"]["greedy"]
    row = next(line for line in text.splitlines() if line.startswith("| `ppo - sft`"))
    assert f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]" in row
    weakest = min(gain["seeds"], key=lambda seed: seed["low"])
    assert f"{100 * weakest['value']:+.1f} [{100 * weakest['low']:+.1f}" in row
    assert f"{sum(seed['low'] > 0 for seed in gain['seeds'])} of 3" in row
    accuracy = results["reward_models"]["reward_model"]["accuracy"]
    assert f"| accuracy | {100 * accuracy['mean']:.1f}% [" in text
    assert "3 seeds, 120 held-out questions" in text and "A Processor" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| `") and " - " not in line}
    assert len(widths) == 1


def test_the_command_writes_results_and_fills_the_readme(tmp_path, runs, capsys):
    out, readme = tmp_path / "docs/results.json", tmp_path / "README.md"
    readme.write_text(f"# Title\n{BEGIN}\nold\n{END}\nafter\n")
    assert evidence.main([*map(str, runs), "--out", str(out)]) == 0
    assert evidence.main(["--results", str(out), "--markdown"]) == 0
    tables = capsys.readouterr().out
    assert evidence.main(["--results", str(out), "--readme", str(readme)]) == 0
    assert readme.read_text() == f"# Title\n{BEGIN}\n{tables}{END}\nafter\n"
    assert evidence.main(["--results", str(out), "--readme", str(readme)]) == 0
    assert readme.read_text().count("`ppo - sft`") == 1


def test_mistakes_on_the_command_line(tmp_path, runs, capsys):
    assert evidence.main([]) == 2
    assert evidence.main([str(tmp_path)]) == 2
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    assert evidence.main([str(runs[0]), "--readme", str(readme)]) == 2
    assert BEGIN in capsys.readouterr().err
    assert readme.read_text() == "no markers"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("results*.json")), ids=lambda path: path.stem)
def test_the_readme_says_what_the_results_file_says(path):
    readme, results = (ROOT / "README.md").read_text(encoding="utf-8"), json.loads(path.read_text(encoding="utf-8"))
    assert evidence.between_markers(readme, results, where="README.md") == readme


def test_results_are_published():
    assert (ROOT / "docs/results.json").exists()
