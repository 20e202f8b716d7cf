"""`python -m wasi.status`, on sweeps as they lie on disk."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from wasi.errors import UserError
from wasi.runs.lock import folder_lock
from wasi.runs.result import write_json
from wasi.status import jobs, lines, seconds_left

ROOT = Path(__file__).resolve().parents[1]


def _job(sweep, name, status, error=None, wall=None, minutes_ago=0.0, epoch=None, machine=None, file="result.json"):
    folder = sweep / name
    folder.mkdir(parents=True)
    start = (datetime.now(timezone.utc) - timedelta(minutes=minutes_ago)).isoformat(timespec="seconds")
    provenance = {"start": start, "machine": {"hostname": machine or platform.node()}}
    provenance |= {} if wall is None else {"wall_seconds": wall}
    write_json(folder / file, {"status": status, "error": error, "provenance": provenance})
    if epoch is not None:
        log = "[2026-01-01][x][INFO] epoch 1/9: train loss 1.0\n" * 99
        (folder / "train.log").write_text(f"{log}[2026-01-01][x][INFO] epoch {epoch}: train loss 0.5\n")
    return folder


def test_what_is_done_runs_failed_and_is_left(tmp_path):
    _job(tmp_path, "a", "completed", wall=600.0)
    _job(tmp_path, "b", "completed", wall=700.0)
    running = _job(tmp_path, "c", "running", minutes_ago=5, epoch="3/9")
    _job(tmp_path, "d", "failed", error="train.epochs=0: allowed is more")
    _job(tmp_path, "e", "running", minutes_ago=500)
    write_json(tmp_path / "sweep.json", {"jobs": 7})
    with folder_lock(running):
        first, *rest = lines(tmp_path)
        left = seconds_left(jobs(tmp_path), planned=7)
    output = f"{tmp_path}: 2 completed, 1 running, 1 failed, 1 died, at most 2 not begun, about 38 min left ("
    assert first.startswith(output) and re.fullmatch(r"(\d\d \w+ )?\d\d:\d\d\)", first.removeprefix(output))
    assert left == pytest.approx(350 + 3 * 650, abs=3)  # two to come, and the dead one again
    assert rest == [
        "  running      c: epoch 3/9, since 5 min",
        "  failed       d: train.epochs=0: allowed is more",
        "  died         e",
    ]


def test_a_result_whose_error_is_no_text_is_not_ours(tmp_path):
    _job(tmp_path, "a", "failed", error="out of memory")
    _job(tmp_path, "b", "failed", error=5)
    assert [job.folder.name for job in jobs(tmp_path)] == ["a"]


def test_a_process_on_another_machine_is_not_told_dead(tmp_path):
    folder = _job(tmp_path, "a", "running", machine="another", minutes_ago=90)
    assert list(lines(tmp_path)) == [f"{tmp_path}: 1 running", "  running      a: on another, since 1 h 30 min"]
    then = time.time() - 4000
    os.utime(folder / "result.json", (then, then))
    assert list(lines(tmp_path))[1].endswith(", since 1 h 30 min, has written nothing for 1 h 7 min")


def test_a_clock_that_is_behind_gives_no_negative_time(tmp_path):
    _job(tmp_path, "a", "running", machine="another", minutes_ago=-5)
    assert list(lines(tmp_path))[1] == "  running      a: on another, since 0 s"


def test_a_benchmark_s_jobs(tmp_path):
    _job(tmp_path, "a", "completed", wall=60.0, file="bench.json")
    running = _job(tmp_path, "b", "running", file="bench.json")
    (running / "mine.log").write_text("round 2/5: 3 ms per step\n")
    (running / "processes.log").write_text("a line of a measuring process\n")  # newer
    with folder_lock(running):
        assert list(lines(tmp_path))[1].startswith("  running      b: round 2/5, since ")


def test_a_sweep_of_which_no_job_has_begun(tmp_path):
    write_json(tmp_path / "sweep.json", {"jobs": 7, "folders": ["a", "b"]})
    assert list(lines(tmp_path)) == [f"{tmp_path}: 2 not begun"]


def test_nothing_is_foretold_from_nothing(tmp_path):
    _job(tmp_path, "a", "interrupted")
    assert seconds_left(jobs(tmp_path), planned=3) is None
    assert next(lines(tmp_path)) == f"{tmp_path}: 1 interrupted"


def test_a_file_that_goes_while_it_is_looked_at_is_passed_over(tmp_path, monkeypatch):
    folder = _job(tmp_path, "a", "running", machine="another")
    (folder / ".result.json.pi-7-7.tmp").touch()

    def stat(path, **options):
        status = original(path, **options)
        if path.suffix == ".tmp":
            path.unlink(missing_ok=True)  # renamed by its writer: there at the first look, gone at the second
        return status

    original = Path.stat
    monkeypatch.setattr(Path, "stat", stat)
    assert next(lines(tmp_path)) == f"{tmp_path}: 1 running" and not (folder / ".result.json.pi-7-7.tmp").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"status": "ok"},
        {"schema_version": 1, "status": ["completed"]},
        {"schema_version": 1, "status": "running", "provenance": [1]},
    ],
)
def test_what_is_no_job_s_result_is_passed_over(tmp_path, content):
    _job(tmp_path, "a", "completed", wall=1.0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text(json.dumps(content))
    assert [job.folder.name for job in jobs(tmp_path)] == ["a"]


def test_a_start_that_is_no_time_is_not_told(tmp_path):
    folder = _job(tmp_path, "a", "running", machine="another")
    result = json.loads((folder / "result.json").read_text())
    result["provenance"]["start"] = "yesterday"
    (folder / "result.json").write_text(json.dumps(result))
    (job,) = jobs(tmp_path)
    assert job.seconds is None and list(lines(tmp_path))[1].startswith("  running      a: on another")


@pytest.mark.parametrize("wall", ["long", [1], -5.0, float("nan"), float("inf"), 1e308])
def test_a_time_that_no_job_took_foretells_nothing(wall, tmp_path):
    folder = _job(tmp_path, "a", "completed", wall=1.0)
    _job(tmp_path, "b", "running", machine="another")
    result = json.loads((folder / "result.json").read_text())
    result["provenance"]["wall_seconds"] = wall
    (folder / "result.json").write_text(json.dumps(result))
    assert next(lines(tmp_path)) == f"{tmp_path}: 1 completed, 1 running"


def test_an_end_beyond_a_century_is_not_told(tmp_path):
    _job(tmp_path, "a", "completed", wall=600.0)
    _job(tmp_path, "b", "running", machine="another")
    write_json(tmp_path / "sweep.json", {"jobs": 10**22, "folders": []})
    assert re.fullmatch(r".*: 1 completed, 1 running, at most \d{22} not begun", next(lines(tmp_path)))


@pytest.mark.parametrize("name", ["nowhere", "empty", "of_another_program"])
def test_a_folder_without_jobs_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "of_another_program").mkdir()
    (tmp_path / "of_another_program" / "result.json").write_text('{"hello": 1}')
    with pytest.raises(UserError, match=rf"SWEEP=.*{name}: allowed is "):
        jobs(tmp_path / name)


def test_the_command_takes_no_torch_and_ends_in_one_line(tmp_path):
    def run(*words):
        check = "import sys, runpy; sys.argv[0] = 'status'\n"
        check += "try: runpy.run_module('wasi.status', run_name='__main__')\n"
        check += "finally: assert 'torch' not in sys.modules"
        return subprocess.run([sys.executable, "-c", check, *words], cwd=ROOT, capture_output=True, text=True)

    _job(tmp_path, "a", "completed", wall=1.0)
    output = run(str(tmp_path))
    assert output.returncode == 0 and output.stdout == f"{tmp_path}: 1 completed\n", output.stderr
    for seconds in ("nan", "inf", "10000000000.0", "1e+300", "86401.0"):
        assert run(str(tmp_path), "--watch", seconds).stderr.startswith(f"error: --watch={seconds}: allowed is ")
    refused = run("--watch", str(tmp_path))
    assert refused.returncode == 2 and "the folder stands before --watch" in refused.stderr.splitlines()[-1]
    refused = run(str(tmp_path), "--watch", "0")
    assert refused.returncode == 2 and refused.stderr == (
        "error: --watch=0.0: allowed is a number of seconds above 0, up to 86400 (a day)\n"
    )


def test_a_reason_of_several_lines_is_one(tmp_path):
    _job(tmp_path, "a", "failed", error="out of memory:\n  3 GiB")
    assert list(lines(tmp_path))[1:] == ["  failed       a: out of memory: 3 GiB"]


def test_a_terminal_without_a_paths_characters_is_told_nevertheless(tmp_path):
    _job(tmp_path / "größe", "a", "failed", error="größer")
    command = [sys.executable, "-m", "wasi.status", str(tmp_path / "größe")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"gr??e: 1 failed" in done.stdout and b"gr??er" in done.stdout
