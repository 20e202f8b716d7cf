"""`perform`: what is left in the folder after each ending, what is skipped, what is resumed."""

import logging
import signal
from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode
from omegaconf import open_dict
from PIL import Image
from safetensors.torch import save_file

from wasi.config.fingerprint import fingerprint
from wasi.data.spec import InputSpec
from wasi.errors import Diverged, Interrupted, UserError
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.runs import inputs, lock, log_file
from wasi.runs import job as module
from wasi.runs import record as record_module
from wasi.runs.ending import Ending
from wasi.runs.job import perform, run_job
from wasi.runs.lock import folder_lock
from wasi.runs.log_file import FILE_ONLY, LogFile
from wasi.runs.result import read_result, write_json
from wasi.signals import interruptible
from wasi.tracking import Tracker

pytestmark = pytest.mark.usefixtures("words_of_the_command")


@pytest.fixture
def cfg(compose_config):
    return compose_config("train.epochs=1", "sweep=here")


def trains(cfg, run):
    run.metrics.update({"val/acc": 0.25, "train/loss": float("nan"), "time/x": 0.0})
    run.layers = [{"name": "blocks.0.fc1", "activation_ranks": (1, 2)}]
    run.resumed_from_step = 3


def never(cfg, run):
    raise AssertionError("it was run")


def raising(error):
    def body(cfg, run):
        assert read_result(run.folder)["status"] == "running"
        run.metrics["train/loss"] = 2.0
        raise error

    return body


def test_a_completed_run(tmp_path, cfg):
    assert perform(cfg, tmp_path, trains).exit_code == 0
    result = read_result(tmp_path)
    assert list(result) == [
        "schema_version", "status", "error", "fingerprint", "config", "provenance", "metrics", "layers",
        "classes", "history",
    ]  # fmt: skip
    assert (result["status"], result["error"], result["fingerprint"]) == ("completed", None, fingerprint(cfg))
    assert result["metrics"] == {"val/acc": 0.25, "time/x": 0.0}
    assert result["layers"] == [{"name": "blocks.0.fc1", "activation_ranks": [1, 2]}]
    assert result["config"]["method"]["weight_epsilon"] == result["config"]["rank"]["weight_epsilon"] == 0.8
    assert result["config"]["sweep"] == "here"
    assert result["provenance"]["resumed_from_step"] == 3 and result["provenance"]["wall_seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UserError("dataset.root", "x", "a folder"), "failed", 2),
        (Diverged("training loss is nan"), "diverged", 1),
        (ZeroDivisionError("by zero"), "failed", 1),
    ],
)
def test_a_run_that_ends_badly_says_so_and_runs_again(error, status, code, tmp_path, cfg, capsys):
    assert perform(cfg, tmp_path, raising(error)).exit_code == code
    result = read_result(tmp_path)
    assert result["status"] == status and result["error"] in capsys.readouterr().err
    assert result["metrics"] == {"train/loss": 2.0}
    assert perform(cfg, tmp_path, trains).exit_code == 0
    assert read_result(tmp_path)["status"] == "completed" and read_result(tmp_path)["error"] is None


def test_an_interrupted_run_is_written_down_and_passed_on(tmp_path, cfg):
    with pytest.raises(Interrupted) as stop:
        perform(cfg, tmp_path, raising(Interrupted(signal.SIGTERM)))
    assert stop.value.signum == signal.SIGTERM
    result = read_result(tmp_path)
    assert (result["status"], result["error"]) == ("interrupted", "stopped by SIGTERM")


@pytest.mark.parametrize("swallow", [False, True])
def test_a_signal_whose_exception_was_lost_stops_the_sweep_and_the_run_is_no_failure(swallow, tmp_path, cfg):
    """A library made another exception of it, or none (as Python does in a destructor)."""

    def body(cfg, run):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            if not swallow:
                raise RuntimeError("something else") from None

    with pytest.raises(Interrupted), interruptible():
        perform(cfg, tmp_path, body)
    assert read_result(tmp_path)["status"] == ("completed" if swallow else "interrupted")
    assert perform(cfg, tmp_path, trains).exit_code == 0


def test_what_is_completed_is_skipped_unless_asked_for_again(tmp_path, cfg, compose_config):
    perform(cfg, tmp_path, trains)
    before = (tmp_path / "result.json").read_bytes()
    assert perform(cfg, tmp_path, never).exit_code == 0
    assert (tmp_path / "result.json").read_bytes() == before
    again = compose_config("train.epochs=1", "train.rerun=true")
    assert perform(again, tmp_path, raising(Diverged("x"))).status == "diverged"


ADDED = {"fast": "memory/train_peak_mib", "true": "memory/train_rss_peak_mib"}


@pytest.mark.parametrize(("first", "second"), [("false", "true"), ("none", "fast"), ("fast", "true")])
def test_a_completed_run_is_measured_later_without_training_again(tmp_path, compose_config, first, second):
    unmeasured, measured = (compose_config("train.epochs=1", f"train.measure={on}") for on in (first, second))

    def measures(cfg, run):
        assert run.only_measure
        run.metrics[ADDED[second]] = 2.0

    perform(unmeasured, tmp_path, trains)
    before = read_result(tmp_path)
    assert perform(measured, tmp_path, raising_in_measurement).exit_code == 1
    assert read_result(tmp_path) == before
    assert perform(measured, tmp_path, measures).exit_code == 0
    after = read_result(tmp_path)
    assert after["metrics"] == {**before["metrics"], ADDED[second]: 2.0}
    output = after["provenance"].pop("measured")
    assert after["provenance"] == before["provenance"] and after["layers"] == before["layers"]
    assert {"start", "machine", "threads"} <= output.keys()
    assert perform(measured, tmp_path, never).exit_code == 0
    assert perform(unmeasured, tmp_path, never).exit_code == 0


def raising_in_measurement(cfg, run):
    raise ValueError("x")


def test_a_completed_run_that_was_not_watched_says_so(tmp_path, cfg, compose_config, caplog):
    perform(cfg, tmp_path, trains)
    with caplog.at_level(logging.WARNING):
        perform(compose_config("train.epochs=1", "train.monitor=true"), tmp_path, never)
    assert "train.rerun=true trains it under watch" in caplog.text


def test_another_configuration_s_result_does_not_count(tmp_path, cfg, compose_config):
    perform(cfg, tmp_path, trains)
    other = compose_config("train.epochs=2", "train.rerun=true")
    assert perform(other, tmp_path, raising(Diverged("x"))).status == "diverged"


def test_a_refused_run_leaves_a_completed_one_alone(tmp_path, cfg, compose_config):
    perform(cfg, tmp_path, trains)
    refused = compose_config("train.epochs=1", "logger=wandb_offline", "logger.mode=later")
    assert perform(refused, tmp_path, never).exit_code == 2
    assert read_result(tmp_path)["status"] == "completed"


def test_a_wrong_option_is_refused_before_the_body(tmp_path, compose_config):
    assert perform(compose_config("rank.weight_epsilon=2"), tmp_path, never).exit_code == 2
    result = read_result(tmp_path)
    assert result["status"] == "failed" and result["error"].startswith("rank.weight_epsilon=2")
    assert result["config"]["rank"]["weight_epsilon"] == 2


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        (["dataset.image_size=30"], "dataset.image_size=30"),
        (["model.weights=nowhere.safetensors"], "model.weights=nowhere.safetensors"),
        (["dataset=image_folder", "dataset.root=nowhere"], "dataset.root=nowhere"),
        (["dataset.train_size=5000"], "dataset.train_size=5000"),
        (["device.num_threads=100000"], "device.num_threads=100000: allowed is at most "),
        (["dataset.num_workers=100000"], "dataset.num_workers=100000: allowed is at most "),
        (["dataset.image_size=56000", "train.micro_batch_size=1"], "dataset.image_size=56000: allowed is a size "),
    ],
)
def test_inputs_are_checked_before_the_body(overrides, option, tmp_path, compose_config):
    assert perform(compose_config(*overrides), tmp_path, never).exit_code == 2
    assert read_result(tmp_path)["error"].startswith(option)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (["dataset.batch_size=16"], False),  # 16 images as float32 are 0.35 GiB, more than an eighth
        (["dataset.batch_size=16", "train.micro_batch_size=4"], True),
        (["dataset.batch_size=16", "train.memory=lean"], True),
        (["dataset.batch_size=80", "train.memory=lean"], False),  # 80 as bytes are 0.44
    ],
)
def test_a_step_takes_several_times_its_images(options, fits, compose_config, monkeypatch):
    monkeypatch.setattr(inputs.psutil, "virtual_memory", lambda: SimpleNamespace(total=1.5 * 2**30))
    cfg = compose_config("dataset.image_size=1400", *options)
    if fits:
        return inputs.check_inputs(cfg)
    with pytest.raises(UserError, match=r"^dataset.image_size=1400: allowed is a size at which a batch of "):
        inputs.check_inputs(cfg)


def _model_of_a_run(folder, dataset):
    """Write what another run leaves in its folder: its model, and a result that names its data."""
    folder.mkdir()
    spec = InputSpec(28, (0.5,) * 3, (0.5,) * 3, "bilinear")
    header = ModelHeader("wasi", "vit_micro", "vanilla", "mlp", ("a", "b"), spec, ())
    save_file({"w": torch.ones(1)}, folder / "model.safetensors", {METADATA_KEY: header.to_json()})
    write_json(folder / "result.json", {"config": {"seed": 0, "dataset": dataset}})
    return f"model.weights={folder}"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_warns_where_held_out_images_may_have_trained_its_model_and_no_benchmark_does(
    seed, tmp_path, compose_config, caplog
):
    digits = dict(compose_config("dataset=digits").dataset)
    cfg = compose_config(_model_of_a_run(tmp_path / "before", digits), f"seed={seed}")
    inputs.check_inputs(cfg)
    assert "may be too high" not in caplog.text
    assert perform(cfg, tmp_path, trains).exit_code == 0
    assert ("accuracies on them (val) may be too high" in caplog.text) == (seed == 1)


def test_photos_of_the_model_s_run_that_are_gone_are_told_as_without_it(tmp_path, compose_config):
    words = ["dataset=image_folder", f"dataset.root={tmp_path / 'gone'}"]
    photos = dict(compose_config(*words).dataset)
    words.append(_model_of_a_run(tmp_path / "before", photos))
    assert perform(compose_config(*words), tmp_path, never).exit_code == 2
    assert f"there is no folder {tmp_path / 'gone'}" in read_result(tmp_path)["error"]


def test_a_result_of_other_code_is_used_with_a_warning(tmp_path, cfg, monkeypatch, caplog):
    perform(cfg, tmp_path, trains)
    monkeypatch.setattr(module, "code_version", lambda: {"git_commit": "f" * 40})
    with caplog.at_level(logging.WARNING):
        perform(cfg, tmp_path, never)
    assert "another commit" in caplog.text and "ffffffffff" in caplog.text


def test_only_its_own_checkpoint_is_continued(tmp_path, cfg, compose_config):
    checkpoint = tmp_path / "checkpoint.pt"

    def seen(cfg, run):
        run.metrics["checkpoint"] = float(checkpoint.exists())

    checkpoint.write_bytes(b"of unknown origin")
    perform(cfg, tmp_path, seen)
    assert read_result(tmp_path)["metrics"] == {"checkpoint": 0.0}

    with pytest.raises(Interrupted):
        perform(compose_config("train.epochs=2", "train.rerun=true"), tmp_path, raising(Interrupted(signal.SIGINT)))
    checkpoint.write_bytes(b"of two epochs")
    perform(compose_config("train.epochs=2"), tmp_path, seen)
    assert read_result(tmp_path)["metrics"] == {"checkpoint": 1.0}


def test_an_unfinished_run_of_another_configuration_is_not_given_up_unasked(tmp_path, cfg, compose_config, capsys):
    checkpoint, two = tmp_path / "checkpoint.pt", compose_config("train.epochs=2")
    with pytest.raises(Interrupted):
        perform(two, tmp_path, raising(Interrupted(signal.SIGINT)))
    checkpoint.write_bytes(b"of two epochs")
    before = (tmp_path / "result.json").read_bytes()
    assert perform(cfg, tmp_path, never).exit_code == 2
    output = capsys.readouterr().err
    assert "hydra.run.dir=" in output
    assert "the checkpoint of a run with train.epochs=2, which train.rerun=true" in output
    assert checkpoint.exists() and (tmp_path / "result.json").read_bytes() == before

    assert perform(compose_config("train.epochs=1", "train.rerun=true"), tmp_path, trains).exit_code == 0
    assert not checkpoint.exists() and read_result(tmp_path)["config"]["train"]["epochs"] == 1


@pytest.mark.parametrize("other", ["train.epochs=2", "seed=7"])
def test_a_completed_result_of_another_configuration_is_not_replaced_unasked(
    other, tmp_path, cfg, compose_config, capsys
):
    perform(compose_config(other), tmp_path, trains)
    before = (tmp_path / "result.json").read_bytes()
    assert perform(cfg, tmp_path, never).exit_code == 2
    assert f"here lies the completed result of a run with {other}, which train.rerun=true" in capsys.readouterr().err
    assert (tmp_path / "result.json").read_bytes() == before
    assert perform(compose_config("train.epochs=1", "train.rerun=true"), tmp_path, trains).exit_code == 0
    assert read_result(tmp_path)["fingerprint"] == fingerprint(cfg)


@pytest.mark.parametrize("words", [(), ("augment.mixup_alpha=0.2",)])
def test_augmentation_that_only_one_of_two_runs_has_is_named(words, tmp_path, compose_config, capsys):
    other = ("augment.mixup_alpha=0.2",) if not words else ()
    perform(compose_config(*words), tmp_path, trains)
    assert perform(compose_config(*other), tmp_path, never).exit_code == 2
    which = "with augment.mixup_alpha=0.2" if words else "without augment.mixup_alpha"
    assert f"here lies the completed result of a run {which}, which" in capsys.readouterr().err


def test_a_failed_result_of_another_configuration_is_replaced_and_that_is_told(tmp_path, cfg, compose_config, caplog):
    perform(compose_config("train.epochs=2"), tmp_path, raising(RuntimeError("x")))
    assert perform(cfg, tmp_path, trains).exit_code == 0
    assert "held the result of a run with train.epochs=2, which this one replaces" in caplog.text


def test_a_run_that_is_refused_leaves_any_completed_result_as_it_is(tmp_path, compose_config, capsys):
    folder, images = tmp_path / "run", tmp_path / "images"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        for part in ("train", "val", "test"):
            (images / part / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(images / part / name)
    options = ("dataset=image_folder", f"dataset.root={images}")
    folder.mkdir()
    perform(compose_config(*options), folder, trains)
    before = (folder / "result.json").read_bytes()
    images.rename(tmp_path / "unmounted")
    for refused in (options, (*options, "seed=6")):
        assert perform(compose_config(*refused), folder, never).exit_code == 2
        assert (folder / "result.json").read_bytes() == before
    assert "dataset.root=" in capsys.readouterr().err


@pytest.mark.parametrize("content", [
    '{"config": "foo"}', '{"config": null}', "[]", '{"config": {}, "status": 3}',
    '{"config": {}, "fingerprint": "OWN", "provenance": null, "metrics": {}}', '{"config": {}, "fingerprint": "OWN"}',
    '{"config": {}, "fingerprint": "OWN", "provenance": {}, "metrics": [], "status": "completed"}',
])  # fmt: skip
def test_a_file_that_is_no_result_is_replaced(tmp_path, cfg, content):
    (tmp_path / "result.json").write_text(content.replace("OWN", fingerprint(cfg)))
    perform(cfg, tmp_path, trains)
    assert read_result(tmp_path)["status"] == "completed"


def test_the_tracker_gets_what_the_result_has(tmp_path, cfg, monkeypatch):
    output = []

    class Tracker:
        def finish(self, exit_code, result):
            output.extend([result["metrics"], exit_code])

    monkeypatch.setattr(module, "open_tracker", lambda *_: Tracker())
    perform(cfg, tmp_path, trains)
    assert output == [{"val/acc": 0.25, "time/x": 0.0}, 0]
    output.clear()
    (tmp_path / "other").mkdir()
    perform(cfg, tmp_path / "other", raising(ValueError("x")))
    assert output == [{"train/loss": 2.0}, 1]


def test_what_a_process_left_undone_that_died_after_its_result_is_done_when_the_run_is_skipped(
    tmp_path, cfg, monkeypatch
):
    closed = []

    class Tracker:
        def finish(self, exit_code, result):
            closed.append((exit_code, result["status"], result["metrics"]))

    perform(cfg, tmp_path, trains)
    monkeypatch.setattr(module, "open_tracker", lambda *_: Tracker())
    perform(cfg, tmp_path, never)
    assert closed == []
    for name in ("checkpoint.pt", "checkpoint_before.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"of the process that died")
    before = (tmp_path / "result.json").read_bytes()
    perform(cfg, tmp_path, never)
    assert closed == [(0, "completed", {"val/acc": 0.25, "time/x": 0.0})]
    assert not list(tmp_path.glob("*.pt")) and (tmp_path / "result.json").read_bytes() == before
    perform(cfg, tmp_path, never)
    assert len(closed) == 1


def test_a_run_that_is_trained_again_is_another_attempt_and_one_that_goes_on_is_not(tmp_path, cfg, monkeypatch):
    attempts = []
    monkeypatch.setattr(module, "open_tracker", lambda *given: attempts.append(given[3]) or Tracker())

    def output() -> tuple:
        return attempts.pop(), read_result(tmp_path)["provenance"]["attempt"]

    with pytest.raises(Interrupted):
        perform(cfg, tmp_path, raising(Interrupted(signal.SIGTERM)))
    assert output() == (1, 1)
    perform(cfg, tmp_path, trains)
    assert output() == (1, 1)
    cfg.train.rerun = True
    with pytest.raises(Interrupted):
        perform(cfg, tmp_path, raising(Interrupted(signal.SIGTERM)))
    assert output() == (2, 2)
    perform(cfg, tmp_path, trains)  # goes on with the second
    assert output() == (2, 2)
    perform(cfg, tmp_path, trains)
    assert output() == (3, 3)


def test_a_single_run_that_is_continued_keeps_the_name_that_w_and_b_knows_it_by(cfg):
    module._keep_sweep_name(cfg, {"config": {"sweep": "yesterday"}}, ["seed=1"])
    assert cfg.sweep == "yesterday"
    module._keep_sweep_name(cfg, {"config": {"sweep": "yesterday"}}, ["sweep=mine"])
    module._keep_sweep_name(cfg, None, [])
    assert cfg.sweep == "yesterday"


def test_the_best_weights_are_removed_with_the_checkpoint(tmp_path, cfg, compose_config):
    files = [tmp_path / "checkpoint.pt", tmp_path / "best.pt"]

    def leaves(cfg, run):
        assert not any(file.exists() for file in files)
        for file in files:
            file.write_bytes(b"of this run")

    perform(cfg, tmp_path, raising(ZeroDivisionError("by zero")))
    for file in files:
        file.write_bytes(b"of another run")
    perform(compose_config("train.epochs=2", "train.rerun=true", "sweep=here"), tmp_path, leaves)
    assert not any(file.exists() for file in files)


def test_the_epochs_that_ended_are_in_the_result_however_the_run_ends(tmp_path, cfg):
    def body(_, run):
        run.history = [{"train/loss": 1.0}, {"train/loss": 0.5, "val/acc": 0.25}]
        raise ValueError("after two epochs")

    perform(cfg, tmp_path, body)
    history = [{"epoch": 1, "train/loss": 1.0}, {"epoch": 2, "train/loss": 0.5, "val/acc": 0.25}]
    assert read_result(tmp_path)["history"] == history


def test_the_classes_are_in_the_result(tmp_path, cfg):
    def body(cfg, run):
        run.classes = [{"name": "cat", "count": 2, "recall": 0.5}]

    perform(cfg, tmp_path, body)
    assert read_result(tmp_path)["classes"] == [{"name": "cat", "count": 2, "recall": 0.5}]


def test_a_result_that_cannot_be_written_loses_nothing_and_stops_nothing(tmp_path, cfg, monkeypatch, capsys):
    def fills_the_disk(cfg, run):
        (run.folder / "checkpoint.pt").write_bytes(b"of the last epoch")
        monkeypatch.setattr(record_module, "write_json", full)

    def full(path, content):
        raise OSError(28, "No space left on device")

    ending = perform(cfg, tmp_path, fills_the_disk)
    assert (ending.status, ending.exit_code) == ("failed", 1)
    assert capsys.readouterr().err.startswith("error: OSError: [Errno 28] No space left on device")
    assert read_result(tmp_path)["status"] == "running" and (tmp_path / "checkpoint.pt").exists()
    monkeypatch.undo()
    assert perform(cfg, tmp_path, lambda cfg, run: None).status == "completed"


def test_what_a_killed_process_was_writing_goes_with_the_checkpoint(tmp_path, cfg):
    folder = tmp_path / ".model.safetensors.pi-17-17.tmp"
    folder.mkdir()
    for file in (tmp_path / "checkpoint.pt.tmp", tmp_path / ".result.json.pi-17-17.tmp", folder / ".tmph58j3f"):
        file.write_bytes(b"half")
    perform(cfg, tmp_path, trains)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("cut", [1, 30, None])
def test_a_cut_model_of_a_completed_run_is_told(cut, tmp_path, cfg, caplog):
    def saves(cfg, run):
        save_file({"w": torch.ones(3, 4)}, run.folder / "model.safetensors", {"about": "it"})

    perform(cfg, tmp_path, saves)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: -cut if cut else None])
    caplog.clear()
    perform(cfg, tmp_path, never)
    assert any("model.safetensors is cut or damaged" in message for message in caplog.messages) == bool(cut)


def test_a_refused_run_leaves_the_checkpoint_of_another_in_its_folder_usable(tmp_path, cfg, compose_config):
    def saves(cfg, run):
        (run.folder / "checkpoint.pt").write_bytes(b"of this run")
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        perform(cfg, tmp_path, saves)
    gone = compose_config("dataset=image_folder", "dataset.root=gone", "sweep=here")
    assert perform(gone, tmp_path, never).exit_code == 2
    assert read_result(tmp_path)["status"] == "interrupted"

    def goes_on(cfg, run):
        assert (run.folder / "checkpoint.pt").exists()

    assert perform(cfg, tmp_path, goes_on).status == "completed"


@pytest.fixture
def in_a_sweep(tmp_path, monkeypatch):
    """`run_job` takes `tmp_path` for the folder of a sweep's job."""
    runtime, callbacks = SimpleNamespace(output_dir=str(tmp_path)), {"sweep": {"fail_fast": None}}
    overrides = SimpleNamespace(task=[])
    hydra_cfg = SimpleNamespace(runtime=runtime, mode=RunMode.MULTIRUN, callbacks=callbacks, overrides=overrides)
    monkeypatch.setattr(module.HydraConfig, "get", lambda: hydra_cfg)
    for asking in (lock, log_file):
        monkeypatch.setattr(asking, "in_sweep", lambda: True)
    monkeypatch.setattr(module, "enough_failures", lambda _: None)
    monkeypatch.setattr(module, "_ended", {})


def test_a_job_that_failed_by_its_memory_limit_is_tried_with_another_one(tmp_path, compose_config, in_a_sweep):
    limits = (100, 4000)
    small, large = (compose_config("train.epochs=1", f"device.memory_limit_mib={mib}") for mib in limits)
    run_job(small, raising(UserError("device.memory_limit_mib", 100, "more")))
    run_job(small, never)
    assert read_result(tmp_path)["status"] == "failed" and list(module.failed_here()) == [tmp_path]
    run_job(large, trains)
    assert read_result(tmp_path)["status"] == "completed" and module.failed_here() == {}


def test_a_job_refused_beside_another_s_result_returns_none_of_it(tmp_path, cfg, compose_config, in_a_sweep):
    other = compose_config("train.epochs=2", "sweep=here")
    perform(other, tmp_path, trains)
    assert [run_job(cfg, never) for _ in range(2)] == [None, None]
    module.reset_ended_jobs()
    assert run_job(other, never) == 0.25


def test_a_job_without_an_option_of_the_device_is_refused_in_one_line(tmp_path, cfg, in_a_sweep, capsys):
    with open_dict(cfg):
        del cfg.device.memory_limit_mib
    run_job(cfg, never)
    assert read_result(tmp_path)["status"] == "failed" and capsys.readouterr().err.count("\n") == 1


def test_a_lock_that_cannot_be_opened_fails_its_job_alone(tmp_path, cfg, in_a_sweep, capsys):
    (tmp_path / ".lock").mkdir()
    assert run_job(cfg, never) is None
    allowed = "a folder whose .lock is a file that can be opened (Is a directory)"
    assert capsys.readouterr().err == f"error: hydra.sweep.dir={tmp_path}: allowed is {allowed}\n"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_log_that_cannot_be_written_fails_its_job_alone_and_costs_no_completed_one(
    tmp_path, cfg, in_a_sweep, capsys, monkeypatch
):
    (tmp_path / "train.log").mkdir()
    monkeypatch.setattr(logging.getLogger(FILE_ONLY), "handlers", [LogFile(str(tmp_path / "train.log"))])
    run_job(cfg, never)
    error = capsys.readouterr().err
    assert error.startswith("error: hydra.job_logging.handlers.file.filename=") and error.count("\n") == 1
    assert error.endswith("train.log: allowed is a file that can be written (Is a directory)\n")
    assert read_result(tmp_path)["status"] == "failed" and read_result(tmp_path)["error"] in error
    perform(cfg, tmp_path, trains)
    module.reset_ended_jobs()
    run_job(cfg, never)
    assert capsys.readouterr().err == "" and read_result(tmp_path)["status"] == "completed"


def test_a_log_that_cannot_be_written_is_an_error_outside_a_sweep(tmp_path):
    with pytest.raises(IsADirectoryError):
        LogFile(str(tmp_path))


def test_a_folder_that_another_process_had_is_dealt_with_when_the_sweep_comes_to_it_again(tmp_path, cfg, in_a_sweep):
    performed = []

    def performer(cfg, folder, body):
        performed.append(folder)
        return Ending("completed")

    with folder_lock(tmp_path):
        run_job(cfg, never, performer)
    assert performed == []
    for _ in range(2):
        run_job(cfg, never, performer)
    assert performed == [tmp_path]
