"""No choice sees the test images: they are read once, when the weights that are tested lie on the disk."""

from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from torch.utils.data import Dataset

from train import train
from wasi.config.objectives import values_of
from wasi.data import catalogue
from wasi.data.spec import Data
from wasi.runs import job as module
from wasi.runs.ending import Ending
from wasi.runs.job import Run, run_job
from wasi.runs.result import write_json
from wasi.runs.tuned_row import found_values

SIZES = ("dataset.train_size=24", "dataset.val_size=16", "dataset.test_size=12", "dataset.batch_size=12")
SEARCH = ("rank.activation_selection=perplexity", "rank.calibration_batches=2")


class Guarded(Dataset):
    """Test images that may be read only when the model has been saved."""

    def __init__(self, images, folder):
        self.images, self.labels, self.folder, self.reads = images, images.labels, folder, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        assert (self.folder / "model.safetensors").is_file(), "a test image was read before the end"
        self.reads += 1
        return self.images[index]


@pytest.mark.parametrize("method", ["wasi", "svd_llm"])
def test_test_images_are_read_once_and_at_the_very_end(method, tmp_path, monkeypatch, compose_config):
    search = SEARCH if method == "wasi" else ()
    cfg = compose_config(
        f"method={method}", *SIZES, *search, "train.epochs=2", "train.select=best", "train.measure=false",
        "train.monitor=true", "device=cpu", "dataset.num_workers=0",  # reads are counted in this process
    )  # fmt: skip
    guarded = []
    loading = catalogue.load_data

    def guard(*args):
        data = loading(*args)
        guarded.append(Guarded(data.test, tmp_path))
        return Data(data.train, data.val, guarded[0], data.classes)

    monkeypatch.setattr(catalogue, "load_data", guard)
    run = Run(tmp_path)
    train(cfg, run)
    assert guarded[0].reads == 12
    assert {"val/acc", "val/best_acc", "val/best_epoch", "test/acc", "test/loss"} <= run.metrics.keys()
    assert run.metrics["val/acc"] == run.metrics["val/best_acc"]
    assert [row["name"] for row in run.classes] == list("0123456789")
    assert sum(row["count"] for row in run.classes) == 12


def test_with_validation_on_the_test_split_both_are_equal(tmp_path, compose_config):
    cfg = compose_config(
        "method=vanilla", "dataset.val_source=test", "dataset.train_size=24", "dataset.val_size=16",
        "dataset.batch_size=12", "train.epochs=1", "train.measure=false", "device=cpu",
    )  # fmt: skip
    run = Run(tmp_path)
    train(cfg, run)
    for name in ("acc", "loss", "balanced_acc"):
        assert run.metrics[f"test/{name}"] == run.metrics[f"val/{name}"]


def test_a_sweeper_is_told_validation_accuracy(tmp_path, monkeypatch, compose_config):
    runtime = SimpleNamespace(output_dir=str(tmp_path))
    hydra_cfg = SimpleNamespace(runtime=runtime, mode=RunMode.MULTIRUN, callbacks={"sweep": {"fail_fast": None}})
    monkeypatch.setattr(module.HydraConfig, "get", lambda: hydra_cfg)

    def performed(cfg, folder, body):
        write_json(folder / "result.json", {"metrics": {"test/acc": 0.9, "val/acc": 0.4}})
        return Ending("completed")

    assert [run_job(compose_config(), None, performed) for _ in range(2)] == [0.4, 0.4]


def test_no_sweeper_is_told_an_accuracy_on_test_images():
    result = {"metrics": {"val/acc": 0.4}, "status": "completed", "config": {"dataset": {"val_source": "train"}}}
    assert found_values(result, ["val/acc"]) == values_of(result, ["val/acc"]) == (0.4,)
    result["config"]["dataset"]["val_source"] = "test"
    assert found_values(result, ["val/acc"]) is values_of(result, ["val/acc"]) is None
