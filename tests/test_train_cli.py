"""train.py from outside: what it prints, what it leaves behind, how it ends."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.imports import TRACED, forking, without_imports
from tests.tracking import wandb_file

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("model", "dataset", "method", "rank", "device", "optimizer", "scheduler", "logger", "experiment")
TINY = (
    *("model=vit_micro", "model.weights=random", "logger=none", "train.measure=false"),
    *("dataset=digits", "dataset.train_size=64", "dataset.val_size=32", "dataset.batch_size=32"),
    *("device=cpu", "device.num_threads=1"),
)


def run(*words: str, cwd: Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return call([sys.executable, *python, str(ROOT / "train.py"), *words], cwd)


def call(command: list[str], cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def results(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("result.json")}


def started_light(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run, and see to it that nothing heavy was imported."""
    done = run(*words, cwd=cwd, python=TRACED)
    done.stderr = without_imports(done.stderr)
    return done


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """`started_light`, without the second that Python takes for train.py's imports."""
    with forking(tmp_path_factory.mktemp("light")) as run:
        yield run


def test_help_names_the_groups_and_imports_nothing_heavy(tmp_path):
    done = started_light("--help", cwd=tmp_path)
    assert done.returncode == 0
    for group in GROUPS:
        assert f"\n{group}: " in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rank.weight_epsilon=abc"], "rank.weight_epsilon=abc"),
        (["dataset.image_size=30"], "dataset.image_size=30"),
        (["dataset=image_folder", "dataset.root=nowhere"], "dataset.root=nowhere"),
        (["model.weights=nowhere.safetensors"], "model.weights=nowhere.safetensors"),
        (["sweep=a/b"], "sweep=a/b"),
        (["+train.epoch=5"], "train.epoch=5"),
        (["dataset.image_size=56000"], "dataset.image_size=56000"),
        (["train.epochs=0", "hydra/job_logging=disabled"], "train.epochs=0"),
        (["train.epochs=0", "hydra/job_logging=stdout"], "train.epochs=0"),
        (["method=wasi", "method.activations=null"], "method.activations=null"),
        (["method=asi", "method.activations.perplexity=null"], "method.activations.perplexity=null"),
        (["method=asi", "method.activations.perplexity=5"], "method.activations.perplexity=5"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, named, tmp_path, light):
    done = light(*TINY, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named}: allowed is ") and done.stderr.count("\n") == 1
    ((_, result),) = results(tmp_path / "outputs").items()
    assert result["status"] == "failed" and f"error: {result['error']}\n" == done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=nope"], "method=nope: allowed is asi, "),
        (["train.epoch=1"], "train.epoch=1: allowed is one of train.checkpoint_every,"),
        (["optimizer=null"], "optimizer=null: allowed is adamw, "),
        (["+method=vanilla"], "+method=vanilla: allowed is method=vanilla, without +"),
        (["+hydra.foo=1"], "hydra.foo=1: allowed is one of hydra.callbacks, "),
        (["+hydra.foo=1", "-m"], "hydra.foo=1: allowed is one of hydra.callbacks, "),
        (["hydra.verbose=5"], "hydra.verbose=5: allowed is true, false, a logger's name or a list"),
        (["hydra.job.env_copy=[NOPE]"], "hydra.job.env_copy=[NOPE]: allowed is a list of variables that the"),
        (["+hydra.sweeper.params.seed=1", "-m"], "hydra.sweeper.params.seed=1: allowed is OPTION=VALUE,VALUE with -m"),
        (["hydra.job.name=a/b"], "hydra.job.name=a/b: allowed is what Python's logging can set up (Unable to "),
        (["hydra.run.dir=."], "hydra.run.dir=.: allowed is a folder of its own"),
        (["method=vanilla,nope", "-m"], "method=nope: allowed is asi, "),
        (["sweep=2026_11_29", "-m"], "sweep=2026_11_29: allowed is a number as 20261129 (which this is), or a "),
        (["++sweep=2026_11_29", "-m"], "sweep=2026_11_29: allowed is a number as 20261129 (which this is), or a "),
        (['sweep="2026_11_29"', "train.epochs=0", "-m"], "train.epochs=0: allowed is "),
        (["sweep=20261129", "train.epochs=0", "-m"], "train.epochs=0: allowed is "),
        (["method=asi", "method.update=svd"], "method.update=svd: allowed is for method=wasi or wsi only"),
        (["method=vanilla,lora", "method.lora_rank=4", "-m"], "method.lora_rank=4: allowed is for method=lora"),
        (["experiment=tuned", "tune.lr.adamw.x=3", "-m"], "tune.lr.adamw.x=3: allowed is tune.lr=VALUE, as "),
        (["optimizer.lr=interval(1e-3,1)", "-m"], "optimizer.lr=interval(1e-3,1): allowed is values with commas, or "),
    ],
)  # fmt: skip
def test_what_cannot_be_composed_is_one_line_and_leaves_no_run(words, message, tmp_path, light):
    done = light(*TINY, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert results(tmp_path) == {}


@pytest.mark.parametrize("how", [["seed=1,2"], ["hydra/sweeper=tuned", "tune.lr=[0.1,0.2]"]])
@pytest.mark.parametrize("words", [["model.weights=nowhere"], ["dataset=image_folder", "dataset.root=nowhere"]])
def test_a_sweep_whose_weights_or_images_are_not_there_begins_no_job(words, how, tmp_path, light):
    done = light(*TINY, "method=vanilla", *words, *how, "-m", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words[-1]}: allowed is ") and done.stderr.count("\n") == 1
    assert results(tmp_path) == {}


@pytest.mark.parametrize("words", [["hydra.callbacks.sweep=null"], ["~hydra.callbacks.sweep", "-m"]])
def test_the_callback_that_checks_commands_cannot_be_taken_away(words, tmp_path, light):
    done = light(*TINY, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words[0]}: allowed is the shipped ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [[], ["seed=1,2", "-m"]])
def test_nor_can_a_file_take_it_away(how, tmp_path, light):
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nhydra:\n  callbacks:\n    sweep: null\n")
    done = light(f"--config-dir={tmp_path / 'conf'}", "experiment=mine", *TINY, *how, cwd=tmp_path)
    assert done.returncode == 2 and results(tmp_path) == {}
    assert done.stderr.endswith(  # after Hydra's warnings that it cannot call null
        "\nerror: hydra.callbacks.sweep=null: allowed is the shipped one, which checks every command\n"
    )


@pytest.mark.parametrize("name", ["2024", "1e3", "5.50", "1_0", "true"])
def test_a_name_that_looks_like_a_number_is_told_to_be_quoted_and_then_works(name, tmp_path, light):
    done = light(*TINY, f"dataset.root={name}", "train.epochs=0", cwd=tmp_path)
    hint = f"'dataset.root=\"{name}\"'"
    assert done.stderr == (
        f"error: dataset.root={name}: allowed is a folder; if {name} is its name, quote it: {hint}\n"
    )
    done = light(*TINY, *shlex.split(hint), "train.epochs=0", cwd=tmp_path)
    assert done.stderr.startswith("error: train.epochs=0: ")


def test_a_working_folder_that_is_deleted_is_told(tmp_path):
    (tmp_path / "gone").mkdir()
    done = call(["sh", "-c", f'rmdir "$PWD" && exec {sys.executable} {ROOT / "train.py"}'], tmp_path / "gone")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "(the working folder has been deleted)" in done.stderr


def test_what_only_hydra_has_words_for_is_one_line_too(tmp_path):
    done = started_light(*TINY, "+seed=3", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: Could not append to config. ")
    assert "'++seed=3'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.run.dir=/proc/x"], "hydra.run.dir=/proc/x: allowed is a folder that can be "),
        (["hydra.sweep.dir=/proc/x", "-m"], "hydra.sweep.dir=/proc/x: allowed is a folder that can be "),
        (["hydra.sweep.subdir=/proc/x", "-m"], "hydra.sweep.subdir=/proc/x: allowed is ${job_folder:}, the default"),
        (["hydra.output_subdir=/proc/x"], "hydra.output_subdir=/proc/x: allowed is a name inside "),
        (["hydra.output_subdir=/proc/x", "-m"], "hydra.output_subdir=/proc/x: allowed is a name inside "),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(words, message, tmp_path, light):
    done = light(*TINY, *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["sweep=a/b"], ["sweep="], ["sweep=a,b"], ["train.epochs=0"]])
def test_a_sweep_that_cannot_work_stops_before_its_first_job(words, tmp_path, light):
    done = light("-m", *TINY, "seed=0,1", *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "multirun").exists()


def test_fast_measures_by_the_run_alone_and_full_adds_a_second_process(tmp_path):
    words = [*TINY, "method=wasi", "train.epochs=1", "train.save=none", "hydra.run.dir=run", "rank.keep_ratio=0.5"]
    done = run(*words, "train.measure=fast", cwd=tmp_path)
    assert done.returncode == 0 and "rank.keep_ratio has no effect with method=wasi" in done.stdout + done.stderr
    ((_, fast),) = results(tmp_path).items()
    assert fast["metrics"]["memory/process_rss_peak_mib"] > 2 * fast["metrics"]["memory/train_peak_mib"] > 0
    assert "memory/train_rss_peak_mib" not in fast["metrics"] and not (tmp_path / "run" / "memory.log").exists()
    assert run(*words, "train.measure=full", cwd=tmp_path).returncode == 0
    ((_, full),) = results(tmp_path).items()
    assert full["metrics"]["memory/train_rss_peak_mib"] > 0 and (tmp_path / "run" / "memory.log").exists()
    assert full["metrics"]["test/acc"] == fast["metrics"]["test/acc"] and full["provenance"]["measured"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    words = [*TINY, "method=vanilla,wasi", "rank=eps_0.6,eps_0.8", "train.epochs=1"]
    return folder, run("-m", *words, cwd=folder)


def test_a_sweep_runs_each_distinct_job_once(swept):
    folder, done = swept
    assert done.returncode == 0, done.stderr
    found = results(folder / "multirun")
    assert {result["status"] for result in found.values()} == {"completed"}
    assert sorted(name.rsplit("-", 1)[0] for name in found) == [
        "vanilla-vit_micro-digits-s233",
        "wasi-vit_micro-digits-eps_0.6-s233",
        "wasi-vit_micro-digits-eps_0.8-s233",
    ]
    for name, result in found.items():
        assert result["fingerprint"].startswith(name.rsplit("-", 1)[1])
        assert 0 <= result["metrics"]["val/acc"] <= 1 and result["layers"]
        assert result["history"][-1]["val/acc"] == result["metrics"]["val/acc"]
        assert result["provenance"]["threads"]["torch"] == 1
    for job in (folder / "multirun").glob("*/*/"):
        assert {".hydra", "train.log", "result.json", "model.safetensors"} <= {path.name for path in job.iterdir()}
        assert not (job / "checkpoint.pt").exists()


def test_its_first_line_resumes_it_and_skips_what_is_completed(swept):
    folder, done = swept
    before = {path: path.read_bytes() for path in folder.rglob("result.json")}
    command = done.stdout.splitlines()[0]
    again = call(shlex.split(command), folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == command
    assert again.stdout.count("already completed, skipped") == 3
    assert {path: path.read_bytes() for path in folder.rglob("result.json")} == before


def test_a_failed_job_does_not_stop_the_others(swept):
    folder, _ = swept
    done = run("-m", *TINY, "method=vanilla", "train.epochs=0,1", "sweep=partly", cwd=folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    jobs = results(folder / "multirun/partly").values()
    found = {job["config"]["train"]["epochs"]: job["status"] for job in jobs}
    assert found == {0: "failed", 1: "completed"}
    assert "train.epochs=0" in done.stderr.splitlines()[-1]


def test_a_stopped_sweep_resumes_to_the_same_numbers(tmp_path):
    tiny = [word for word in TINY if not word.startswith("logger=")]
    words = [*tiny, "method=wasi", "train.epochs=12", "train.select=best"]
    sweep = ["seed=0,1", "sweep=stopped", "logger=wandb_offline"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words, *sweep]
    child = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 143 and "Traceback" not in stderr
    ((name, stopped),) = results(tmp_path).items()
    assert (stopped["status"], stopped["error"]) == ("interrupted", "stopped by SIGTERM")

    again = call(shlex.split(stderr.splitlines()[-1].split("continue with: ")[1]), tmp_path)
    assert again.returncode == 0, again.stderr
    resumed = results(tmp_path)
    assert len(resumed) == 2 and resumed[name]["provenance"]["resumed_from_step"] > 0

    output = wandb_file.records(tmp_path / "multirun" / "stopped" / name)
    assert wandb_file.steps(output) == list(range(1, 25))  # each of the 12 epochs' two steps once, in one file
    assert not any(str(tmp_path) in str(record) for record in output)

    run(*words, "seed=0", "hydra.run.dir=whole", "logger=none", cwd=tmp_path)
    whole = results(tmp_path)["whole"]
    for result in (whole, resumed[name]):
        assert result["status"] == "completed" and result["metrics"].pop("memory/process_rss_peak_mib") > 0
    assert whole["metrics"] == resumed[name]["metrics"]
    weights = [tmp_path / job / "model.safetensors" for job in ("whole", f"multirun/stopped/{name}")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
