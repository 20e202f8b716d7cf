"""kill -9 at twenty random moments of a sweep, and after a run's last step: nothing is lost, done twice, or other."""

import random
import subprocess
import time

import pytest

from tests.faults.sweeps import kill, outcome, run, start
from tests.tracking.wandb_file import of_type, records, steps

pytestmark = pytest.mark.long
TWELVE = ("-m", "method=vanilla,wasi", "seed=0,1,2,3,4,5", "train.select=best")
KILLS = 20


def test_twenty_kills_change_nothing(tmp_path):
    begin = time.monotonic()
    process = start(*TWELVE, "sweep=whole", cwd=tmp_path)
    while not list(tmp_path.glob("multirun/whole/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    until_first = time.monotonic() - begin
    output, _ = process.communicate()
    assert process.returncode == 0, output
    rest, expected = time.monotonic() - begin - until_first, outcome(tmp_path / "multirun/whole")
    assert len(expected) == 12 and {status for status, *_ in expected.values()} == {"completed"}

    moments, killed, sweeps = random.Random(22), 0, []
    while killed < KILLS:
        name = f"killed{len(sweeps)}"
        sweeps.append(tmp_path / "multirun" / name)
        while killed < KILLS:
            finished = _finished(sweeps[-1])
            process = start(*TWELVE, f"sweep={name}", cwd=tmp_path)
            try:
                process.communicate(timeout=moments.uniform(0.3 * until_first, until_first + rest / 10))
                break  # it came to its end before the moment: another sweep for the kills that are left
            except subprocess.TimeoutExpired:
                kill(process)
                killed += 1
            assert {path: content for path, content in _finished(sweeps[-1]).items() if path in finished} == finished

    for sweep in sweeps:
        status, output = run(*TWELVE, f"sweep={sweep.name}", cwd=tmp_path)
        assert status == 0, output
        assert outcome(sweep) == expected
        left = [path.name for path in sweep.rglob("*") if path.suffix == ".tmp" or path.name.startswith("checkpoint")]
        assert left == []


def test_a_kill_while_w_and_b_s_files_are_being_closed_loses_no_step(tmp_path):
    words, folder = ("hydra.run.dir=run", "logger=wandb_offline", "train.select=best"), tmp_path / "run"
    process = start(*words, cwd=tmp_path)
    while not (folder / "result.json").exists() or '"status": "completed"' not in (folder / "result.json").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    kill(process)
    assert list(folder.glob("checkpoint*.pt"))
    before = (folder / "result.json").read_bytes()
    status, output = run(*words, cwd=tmp_path)
    assert status == 0, output
    assert (folder / "result.json").read_bytes() == before and not list(folder.glob("*.pt"))
    found = records(folder)
    assert steps(found) == list(range(1, 33)) and of_type(found, "exit")[0].exit_code == 0


def _finished(sweep):
    """The results of completed jobs, byte for byte."""
    texts = {path: path.read_text() for path in sweep.glob("*/result.json")}
    return {path: text for path, text in texts.items() if '"status": "completed"' in text}
