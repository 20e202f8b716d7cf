"""Kept results against the run folders that they were collected from."""

import copy
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.config.files import flat
from wasi.errors import UserError
from wasi.report.blocks import blocks_of
from wasi.report.columns import STEP
from wasi.report.load import read_runs
from wasi.report.options import row_name
from wasi.report.write import write_report
from wasi.results.collect import collect
from wasi.results.kept_result import read_kept

WEIGHTS = {"model.weights": "/home/someone/net.safetensors"}


def pareto(folder, recipes=True):
    """Runs of three seeds and a benchmark of vanilla and of wasi, against the recipe vanilla or the method."""
    for name, epsilon, speed in (("vanilla", None, 100), ("wasi", 0.8, 60)):
        configuration = fakes.config(name, epsilon, options=WEIGHTS)
        configuration |= {"recipe": f"{name}_best"} if recipes else {}
        configuration |= {"bench": {"baseline_recipe": "vanilla_best"}} if recipes else {}
        for seed in (0, 1, 2):
            accuracy = 0.9 - 0.01 * seed * (name == "wasi")
            fakes.write(folder, {"val/acc": accuracy}, copy.deepcopy(configuration) | {"seed": seed})
        job = jobs.content(configuration, jobs.metrics(speed, 5, speed), jobs.metrics(100, 10, 400))
        job["baseline"]["config"] = fakes.config("vanilla", options=WEIGHTS)
        job["baseline"]["config"] |= {"recipe": "vanilla_best"} if recipes else {}
        job["fingerprint"], job["provenance"]["device"] = f"bench of {name}", "cpu"
        (folder / f"bench_{name}").mkdir()
        (folder / f"bench_{name}" / "bench.json").write_text(json.dumps(job))


def table_of(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1])


@pytest.mark.parametrize("recipes", [True, False])
def test_kept_results_make_the_tables_of_the_folders_that_they_are_from(tmp_path, monkeypatch, recipes):
    pytest.importorskip("vl_convert")
    monkeypatch.chdir(tmp_path)
    sweep, results = tmp_path / "sweep", tmp_path / "results" / "pareto"
    pareto(sweep, recipes)
    collect([sweep], results)
    before = sorted(results.iterdir())
    write_report([sweep])
    printed = write_report([results])
    assert "written to outputs/report/pareto: report.md" in printed
    assert sorted(results.iterdir()) == before
    written = tmp_path / "outputs" / "report" / "pareto"
    assert (sweep / "report_groups.csv").read_text() == (written / "report_groups.csv").read_text()
    assert table_of(sweep) == table_of(written) and "2.00×" in table_of(written)
    assert "results/pareto/" in (written / "report.html").read_text(encoding="utf-8")


def test_a_benchmark_alone_tells_what_it_was_measured_beside(tmp_path):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep" / "bench_wasi"], tmp_path / "kept")
    write_report([tmp_path / "kept"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "2.00×" in text and "No saving is stated" not in text and "no completed vanilla" not in text


def test_a_benchmark_without_baseline_has_none_as_kept_result_either(tmp_path):
    pareto(tmp_path / "sweep")
    job = tmp_path / "sweep" / "bench_wasi"
    content = json.loads((job / "bench.json").read_text())
    (job / "bench.json").write_text(json.dumps(content | {"baseline": None, "ratio": {}}))
    collect([job], tmp_path / "kept")
    ((run,), warnings) = read_runs([tmp_path / "kept"])
    assert run.is_bench and run.baseline is None and warnings == []
    write_report([tmp_path / "kept"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "No saving is stated, for want of a vanilla run of the same model, data and device." in text


def test_a_single_file_and_other_files_beside_it(tmp_path):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "kept")
    (tmp_path / "kept" / "notes.json").write_text(json.dumps({"kind": "run", "row": "nothing"}))
    assert len(read_runs([tmp_path / "kept"])[0]) == 8
    path = next((tmp_path / "kept").glob("job*.json"))
    ((run,), _) = read_runs([path])
    assert (run.shown_path, run.is_kept, run.config["recipe"]) == (path, True, "vanilla_best")


def test_each_file_is_read_as_often_however_many_there_are(tmp_path, monkeypatch):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "kept")
    read, text_of = Counter(), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: read.update([path.name]) or text_of(path, *a, **k))
    read_runs([tmp_path / "kept"])
    times = [read[path.name] for path in (tmp_path / "kept").iterdir()]
    assert len(times) == 8 and max(times) <= 2


def test_a_file_of_another_schema_is_named_and_left_out(tmp_path):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "kept")
    path = next((tmp_path / "kept").glob("job*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 9}))
    runs, (warning,) = read_runs([tmp_path / "kept"])
    assert len(runs) == 7 and str(path) in warning and "schema_version is 9" in warning


@pytest.mark.parametrize("recipes", [True, False])
def test_what_was_measured_is_read_as_from_the_folder_it_was_collected_from(tmp_path, recipes):
    pareto(tmp_path / "sweep", recipes)
    collect([tmp_path / "sweep"], tmp_path / "kept")
    kept = {run.fingerprint: run for run in read_kept(tmp_path / "kept")}
    runs, _ = read_runs([tmp_path / "sweep"])
    assert len(runs) == len(kept) == 8
    for run in runs:
        found = kept[run.fingerprint]
        assert (found.ratio, found.is_bench) == (run.ratio, run.is_bench)
        for ours, theirs in ((found, run), (found.baseline, run.baseline)):
            if theirs is not None:
                assert (ours.metrics, ours.fingerprint) == (theirs.metrics, theirs.fingerprint)
                assert row_name(ours.config) == row_name(theirs.config)


def test_a_file_has_the_form_of_the_one_it_was_collected_from_and_names_no_folder(tmp_path):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "kept")
    for path in (tmp_path / "kept").glob("*.json"):
        name = "bench.json" if path.stem.startswith("bench") else "result.json"
        text, source = path.read_text(), (tmp_path / "sweep" / path.stem / name).read_text()
        kept, whole = flat(json.loads(text)), flat(json.loads(source))
        assert kept.pop("kind") == name.removesuffix(".json").replace("result", "run")
        assert kept.keys() <= whole.keys() and "/home" not in text
        changed = {key for key in kept if kept[key] != whole[key]}
        assert changed and all(key.endswith("config.model.weights") for key in changed)


def test_into_is_made_and_what_cannot_be_is_refused_by_its_name(tmp_path):
    fakes.write(tmp_path / "sweep", fakes.metrics(0.8), fakes.config())
    into = tmp_path / "new" / "folder"
    command = [sys.executable, "-m", "wasi.report", str(tmp_path / "sweep"), "--into", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and (into / "report.md").is_file()
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["job0"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--into="):
        write_report([tmp_path / "sweep"], tmp_path / "file" / "below")


def test_a_ratio_in_turns_from_too_few_rounds_for_an_interval_is_still_the_one_in_turns(tmp_path):
    pareto(tmp_path)
    bench = tmp_path / "bench_wasi" / "bench.json"
    content = json.loads(bench.read_text())
    content["ratio"][STEP.metric] = {"p50": 2.5}  # on a machine that drifted: 100 / 60 by the medians of either side
    bench.write_text(json.dumps(content))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    wasi = next(found for found in block.comparisons if found.group.method == "wasi" and found.group.bench)
    assert wasi.ratio(STEP) == 2.5 and not wasi.within_noise(STEP)
    write_report([tmp_path])
    assert "2.50×" in table_of(tmp_path) and "2.50× [" not in table_of(tmp_path)


@pytest.mark.parametrize("section", ["provenance", "metrics", "config"])
def test_a_damaged_file_is_named_and_left_out(tmp_path, section):
    pareto(tmp_path / "sweep")
    collect([tmp_path / "sweep"], tmp_path / "kept")
    path = next((tmp_path / "kept").glob("job*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {section: None}))
    runs, warnings = read_runs([tmp_path / "kept"])
    assert len(runs) == 7
    assert warnings == [f"left out {path}: damaged: a section is no JSON object"]
