"""Out of memory: told apart, and with `train.on_oom=halve` tried again with less."""

import errno

import pytest
import torch
from torch import distributed as dist

from wasi.config.fingerprint import fingerprint
from wasi.errors import Interrupted, UserError
from wasi.runs.ending import ending_of
from wasi.runs.job import perform
from wasi.runs.out_of_memory import halved, is_out_of_memory
from wasi.runs.result import read_result

pytestmark = pytest.mark.usefixtures("words_of_the_command")


def raised(function) -> Exception:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        raised(lambda: torch.empty(10**15)),
        raised(lambda: bytearray(10**15)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        dist.DistBackendError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_what_python_and_torch_raise_is_known(error):
    assert is_out_of_memory(error)
    ending = ending_of(error)
    assert (ending.status, ending.exit_code) == ("failed", 1) and ending.error.startswith("out of memory: ")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes"), OSError(errno.ENOSPC, "No space left on device"), Interrupted(15),
        UserError("device.memory_limit_mib", 1, "at least 500, what this run wanted, or it is out of memory"),
    ],
)  # fmt: skip
def test_other_failures_are_others(error):
    assert not is_out_of_memory(error) and not str(ending_of(error).error).startswith("out of memory")


def test_halving_keeps_to_divisors_of_the_batch(compose_config):
    def sizes(batch, size):
        while size is not None:
            yield size
            size = halved(compose_config(f"dataset.batch_size={batch}", f"train.micro_batch_size={size}"))

    assert list(sizes(24, 24)) == [24, 12, 6, 3, 1]
    assert list(sizes(45, 45)) == [45, 15, 5, 1]
    assert halved(compose_config("dataset.batch_size=24")) == 12


class Fits:
    """A body that runs out of memory above a number of images."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self, cfg, run):
        assert run.metrics == {} and run.layers == []
        run.metrics["train/loss"], run.layers = 1.0, [{"name": "fc"}]
        self.tried.append(cfg.train.micro_batch_size or cfg.dataset.batch_size)
        if self.tried[-1] > self.most:
            raise MemoryError
        run.metrics["val/acc"] = 0.5


@pytest.fixture
def words():
    return "dataset.batch_size=64", "train.on_oom=halve"


def test_a_run_that_does_not_fit_is_tried_with_less_and_its_result_says_so(tmp_path, compose_config, words):
    cfg, body = compose_config(*words), Fits(16)
    assert perform(cfg, tmp_path, body).status == "completed"
    result = read_result(tmp_path)
    assert body.tried == [64, 32, 16] and result["metrics"] == {"train/loss": 1.0, "val/acc": 0.5}
    assert result["config"]["train"]["micro_batch_size"] == 16
    attempts = result["provenance"]["out_of_memory"]
    assert [attempt["micro_batch_size"] for attempt in attempts] == [64, 32] and "MemoryError" in attempts[0]["error"]
    assert result["fingerprint"] == fingerprint(cfg)  # it is the run that was asked for, and is not trained again
    assert perform(cfg, tmp_path, body).status == "completed" and len(body.tried) == 3


def test_without_the_option_or_below_one_image_it_is_a_failure(tmp_path, compose_config, words):
    for name in "ab":
        (tmp_path / name).mkdir()
    asked, body = compose_config("dataset.batch_size=64"), Fits(16)
    assert perform(asked, tmp_path / "a", body).error == "out of memory: MemoryError" and body.tried == [64]
    assert "out_of_memory" not in read_result(tmp_path / "a")["provenance"]
    body = Fits(0)
    assert perform(compose_config(*words), tmp_path / "b", body).status == "failed"
    assert body.tried == [64, 32, 16, 8, 4, 2, 1]
    assert fingerprint(asked) == fingerprint(compose_config(*words))


def test_a_stopped_run_goes_on_with_the_size_it_had_come_down_to(tmp_path, compose_config, words):
    cfg, body = compose_config(*words), Fits(16)

    def stopped(cfg, run):
        body(cfg, run)
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        perform(cfg, tmp_path, stopped)
    assert perform(cfg, tmp_path, body).status == "completed"
    assert body.tried == [64, 32, 16, 16]
    assert len(read_result(tmp_path)["provenance"]["out_of_memory"]) == 2


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_training_that_meets_it_goes_on_from_its_checkpoint(method, tmp_path, compose_config, monkeypatch):
    """With the whole of `train.py`; the allocator fails in the middle of the second epoch's backward pass."""
    import train
    from wasi.training.step import TrainStep

    words = (
        f"method={method}", "dataset.train_size=64", "dataset.val_size=16", "dataset.batch_size=32", "train.epochs=2",
        "train.measure=false", "device=cpu", "device.num_threads=1", "rank.batch_mode=cut",
    )  # fmt: skip
    step, calls = TrainStep.__call__, []

    def limited(self, images, labels):
        calls.append(self.micro_batch_size)
        if self.micro_batch_size is None and len(calls) > 2:
            torch.empty(10**15)
        return step(self, images, labels)

    monkeypatch.setattr(TrainStep, "__call__", limited)
    assert perform(compose_config(*words, "train.on_oom=halve"), tmp_path, train.train).status == "completed"
    assert calls == [None, None, None, 16, 16]  # the first epoch's checkpoint is gone on from
    result = read_result(tmp_path)
    assert result["provenance"]["resumed_from_step"] == 2 and result["config"]["train"]["micro_batch_size"] == 16
