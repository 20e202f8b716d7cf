"""Paths that the commands `python -m wasi.COMMAND` take, and files that they may write."""

import importlib
import sys

import pytest

from wasi import file_names
from wasi.errors import UserError
from wasi.output_file import check_output_file
from wasi.runs.command import run_cli

OF_A_RUN = ["model.safetensors", "train.log", ".lock", ".hydra/config.yaml", file_names.PERPLEXITY]
OF_A_RUN += [file_names.CHECKPOINT, file_names.CHECKPOINT_BEFORE, file_names.BEST, file_names.MONITOR]
OF_A_SWEEP = [file_names.SWEEP, file_names.TUNING, file_names.FAIL_FAST, file_names.MULTIRUN, file_names.JOURNAL]
OF_A_SWEEP += [file_names.BENCH_TABLE, file_names.PAGE, file_names.REPORT_RUNS]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        *[("result.json", name) for name in OF_A_RUN],
        *[("sweep.json", name) for name in OF_A_SWEEP],
        ("bench.json", "bench.log"),
        (file_names.MULTIRUN, file_names.JOURNAL),  # a search writes no sweep.json
    ],
)
def test_what_a_run_or_a_sweep_has_written_is_not_replaced(record, name, tmp_path):
    for file in (tmp_path / record, tmp_path / name):
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    with pytest.raises(UserError, match="^--csv=.*: allowed is a name that no run's own file has"):
        check_output_file("--csv", tmp_path / name)


@pytest.mark.parametrize("name", ["classes.csv", "model.pt2", "dense.safetensors", "dashboard.json"])
def test_an_earlier_output_in_a_runs_folder_is_replaced(name, tmp_path):
    for file in (tmp_path / "result.json", tmp_path / name):
        file.write_text("")
    check_output_file("--csv", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", name}


def test_outside_of_a_run_the_names_are_free(tmp_path):
    check_output_file("--csv", tmp_path / "report.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["report.__main__", ""], "DIR"),
        (["report.__main__", "runs", "--into", " "], "--into"),
        (["predict", "", "a.png"], "RUN"),
        (["predict", "run", ""], "IMAGE"),
        (["predict", "run", "a.png", "--csv="], "--csv"),
        (["evaluate", ""], "RUN"),
        (["export.__main__", "run", "--format=dense", "--output", ""], "--output"),
        (["status", ""], "SWEEP"),
        (["dashboard.__main__", "--report", ""], "--report"),
        (["dashboard.__main__", "--dry-run", ""], "--dry-run"),
        (["results.__main__", "collect", "", "--into", "kept"], "SWEEP"),
        (["results.__main__", "collect", "sweep", "--into", ""], "--into"),
        (["results.__main__", "tables", "--root", ""], "--root"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(words, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        run_cli(importlib.import_module(f"wasi.{words[0]}").main)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code in (1, 2) and len(lines) == 1 and lines[0].startswith(f"error: {option}=")
    assert lines[0].endswith(": allowed is a path; . is the working folder")
