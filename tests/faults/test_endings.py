"""Signals in the middle of a step, full and read-only disks, cut files, data that go away, two commands at once."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from tests.faults.sweeps import outcome, result, run, start
from tests.tracking.wandb_file import of_type, parsed

pytestmark = pytest.mark.long
LONG = ("train.epochs=500", "train.checkpoint_every=3")


def wait_for(process, folder, pattern):
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_in_the_middle_of_a_step(signum, tmp_path):
    process = start("hydra.run.dir=run", "logger=wandb_offline", *LONG, cwd=tmp_path)
    wait_for(process, tmp_path / "run", "checkpoint_before.pt")
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signum and "Traceback" not in output
    assert (result(tmp_path / "run")["status"], result(tmp_path / "run")["error"]) == (
        "interrupted", f"stopped by {signum.name}",
    )  # fmt: skip
    step = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["progress"]["step"]
    (history,) = (tmp_path / "run").rglob("*.wandb")
    steps, exits = _history(history)
    assert exits == 1 and max(steps) == step


def test_a_closed_terminal_reaches_the_processes_that_load_data_too(tmp_path):
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(path)
    photos = ("dataset=image_folder", "dataset.root=photos", "dataset.num_workers=1", "dataset.batch_size=4")
    sizes = ("dataset.train_size=null", "dataset.val_size=null", "dataset.test_size=null")
    process = start("hydra.run.dir=run", *photos, *sizes, *LONG, cwd=tmp_path)
    wait_for(process, tmp_path / "run", "checkpoint_before.pt")
    os.killpg(process.pid, signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    # Not "Traceback": a worker that is ended while it hands over a batch may print multiprocessing's own.
    assert process.returncode == 129 and "wasi.errors.Interrupted" not in output
    step = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["progress"]["step"]
    assert result(tmp_path / "run")["status"] == "interrupted" and step > 0


def _history(path):
    """Optimizer steps in an offline W&B file, and how many times it says that the run has ended."""
    found = parsed(path)
    items = [item for record in of_type(found, "history") for item in record.item]
    steps = [int(item.value_json) for item in items if "train/step" in (item.key, *item.nested_key)]
    return steps, len(of_type(found, "exit"))


@contextmanager
def file_system(folder, options):
    """A tmpfs of its own. Skips without the right to mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=False)


@pytest.mark.parametrize("kib", [300, 3000, 6000, 12000])  # the log, a checkpoint, the second, the model do not fit
def test_a_full_disk_is_one_line_and_what_was_saved_is_continued(kib, tmp_path):
    with file_system(tmp_path / "disk", f"size={kib}k") as disk:
        status, output = run("hydra.run.dir=run", cwd=disk)
        assert "Traceback" not in output and (status != 0 or result(disk / "run")["status"] == "completed")
        assert status == 0 or "No space left" in output or "os error 28" in output
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        status, output = run("hydra.run.dir=run", cwd=disk)
        assert status == 0, output
        resumed = outcome(disk)["run"]
    assert run("hydra.run.dir=whole", cwd=tmp_path)[0] == 0
    assert resumed == outcome(tmp_path)["whole"]


def test_a_read_only_disk_is_one_line(tmp_path):
    with file_system(tmp_path / "disk", "size=20m") as disk:
        (disk / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for words in (["hydra.run.dir=run"], ["hydra.run.dir=there"], ["-m", "sweep=s", "seed=0,1"]):
            status, output = run(*words, cwd=disk)
            assert status == 2 and "Traceback" not in output and "error: hydra." in output


@pytest.mark.parametrize("name", ["checkpoint.pt", "result.json", "best.pt"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_cut_file_of_an_interrupted_run(name, keep, tmp_path):
    words = ("train.epochs=6", "train.select=best")
    process = start("hydra.run.dir=parts", *words, cwd=tmp_path)
    wait_for(process, tmp_path / "parts", "best.pt")
    wait_for(process, tmp_path / "parts", "checkpoint_before.pt")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    file = tmp_path / "parts" / name
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    status, output = run("hydra.run.dir=parts", *words, cwd=tmp_path)
    assert status == 0, output
    assert run("hydra.run.dir=whole", *words, cwd=tmp_path)[0] == 0
    found = outcome(tmp_path)
    assert found["parts"] == found["whole"]


def test_a_cut_model_is_told_and_made_anew_when_asked(tmp_path):
    assert run("hydra.run.dir=run", cwd=tmp_path)[0] == 0
    whole = outcome(tmp_path)["run"]
    model = tmp_path / "run/model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    status, output = run("hydra.run.dir=run", cwd=tmp_path)
    assert status == 0 and "model.safetensors is cut or damaged: train.rerun=true" in output
    assert run("hydra.run.dir=run", "train.rerun=true", cwd=tmp_path)[0] == 0
    assert outcome(tmp_path)["run"] == whole


def test_a_data_set_that_goes_away_fails_its_jobs_alone(tmp_path):
    from PIL import Image

    for number in range(40):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 99, 5 * number)).save(folder / f"{number}.png")
    given = ("dataset=image_folder", "dataset.root=photos", "dataset.train_size=null", "dataset.val_size=null")
    given += ("dataset.batch_size=4", "dataset.image_size=32")
    process = start("hydra.run.dir=run", *given, *LONG, cwd=tmp_path)
    wait_for(process, tmp_path / "run", "checkpoint_before.pt")
    os.rename(tmp_path / "photos", tmp_path / "elsewhere")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in output and result(tmp_path / "run")["status"] == "failed"
    status, output = run("hydra.run.dir=run", *given, *LONG, cwd=tmp_path)
    assert status == 2 and "error: dataset.root=photos: allowed is" in output
    assert (tmp_path / "run/checkpoint.pt").exists()  # put back, the data are gone on with
    os.rename(tmp_path / "elsewhere", tmp_path / "photos")
    process = start("hydra.run.dir=run", *given, *LONG, cwd=tmp_path)
    wait_for(process, tmp_path / "run", "train.log")
    while "resuming at step" not in (tmp_path / "run/train.log").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_two_commands_at_once_share_the_jobs(tmp_path):
    words = ("-m", "sweep=s", "method=vanilla,wasi", "seed=0,1")
    both = [start(*words, cwd=tmp_path) for _ in range(2)]
    output = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    trained = [line for text in output for line in text.splitlines() if "] completed in " in line]
    found = outcome(tmp_path / "multirun/s")
    assert len(trained) == len(found) == 4 and {status for status, *_ in found.values()} == {"completed"}
    shutil.rmtree(tmp_path / "multirun")
    assert run(*words, cwd=tmp_path)[0] == 0
    assert outcome(tmp_path / "multirun/s") == found
