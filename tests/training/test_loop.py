"""Epochs, listeners, and a stop in the middle that changes nothing."""

import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.small import CLASSES, applied
from wasi.data.arrays import ArrayImages
from wasi.data.augment import augmented, batch_mix
from wasi.data.spec import InputSpec
from wasi.errors import Interrupted, UserError
from wasi.signals import _handle
from wasi.training import loop
from wasi.training.loop import Fit
from wasi.training.step import TrainStep

CONF = Path(__file__).parents[2] / "conf" / "augment"


class Tracker:
    def __init__(self):
        self.history = []

    def resume(self, step):
        pass

    def flush(self):
        pass

    def log(self, step, values):
        self.history.append((step, values))


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return [(pixels[i], i % CLASSES) for i in range(count)]


def normalize(x):
    return x.float() / 255 - 0.5


def augmentation():
    """Images under DeiT's recipe, and what mixes their batches."""
    cfg = OmegaConf.load(CONF / "deit.yaml")
    pixels = torch.stack([pixels for pixels, _ in images(20, 0)])
    spec = InputSpec(16, (0.5,) * 3, (0.5,) * 3, "bicubic")
    data = ArrayImages(pixels, torch.arange(20) % CLASSES, spec)
    return augmented(data, cfg, spec, 1), batch_mix(cfg, CLASSES)


def fit(
    folder, listeners=(), method="wasi", epochs=3, every=None, eval_every=1, select="last", train=None, mix=None
):
    cfg = {
        "seed": 1,
        "dataset": {"batch_size": 8, "hflip": 0.5, "num_workers": 0},
        "train": {"epochs": epochs, "checkpoint_every": every, "eval_every": eval_every, "select": select},
        "scheduler": {"_target_": "wasi.training.schedule.cosine", "warmup_epochs": 1, "min_lr_ratio": 0.0},
    }
    model = applied("timm_vit", method)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    step = TrainStep(model, optimizer, normalize, clip_norm=2.0)
    folder.mkdir(exist_ok=True)
    train = train or images(20, 0)
    return Fit(step, train, images(10, 1), OmegaConf.create(cfg), folder, Tracker(), listeners, mix)


def parameters(run):
    return [p.detach() for p in run.step.model.parameters()]


def stop_in(run, step, value="lr"):
    """Let a signal arrive when `value` is logged for this step: `lr` while the step, `val/acc` while an epoch ends."""
    log = run.tracker.log

    def stop(number, values):
        log(number, values)
        if number == step and value in values:
            _handle(signal.SIGTERM, None)

    run.tracker.log = stop


def test_a_listener_hears_of_the_start_and_of_every_epoch(tmp_path):
    heard = []
    run = fit(tmp_path, [lambda *done: heard.append(done)])
    result = run.run()
    assert heard == [(0, 0), (1, 3), (2, 6), (3, 9)]
    assert set(result) == {
        "train/loss", "val/acc", "val/loss", "val/balanced_acc", "val/best_acc", "val/best_epoch",
    }  # fmt: skip
    steps = [step for step, values in run.tracker.history if "lr" in values]
    assert steps == list(range(1, 10))
    assert [step for step, values in run.tracker.history if "val/acc" in values] == [3, 6, 9]


def test_evaluation_when_due_and_at_the_end_changes_no_result(tmp_path):
    often, seldom = fit(tmp_path / "often"), fit(tmp_path / "seldom", eval_every=2)
    results = often.run(), seldom.run()
    last = [{name: value for name, value in result.items() if "best" not in name} for result in results]
    assert last[0] == last[1]
    assert [step for step, values in seldom.tracker.history if "val/acc" in values] == [6, 9]


@pytest.mark.parametrize(
    ("micro", "refused"),
    [(None, "dataset.batch_size=8: allowed is a size that divides 9 images without leaving a single one"),
     (1, "train.micro_batch_size=1: allowed is a size that divides 8 images without "),
     (7, "train.micro_batch_size=7: allowed is a size that divides 8 images without ")],
)  # fmt: skip
def test_a_batch_of_one_image_is_refused_where_a_batch_norm_needs_more(micro, refused, tmp_path):
    run = fit(tmp_path, method="vanilla", train=images(9, 0))
    run.step.model.fc_norm, run.step.micro_batch_size = torch.nn.BatchNorm1d(32), micro
    with pytest.raises(UserError, match=refused):
        run.run()
    even = fit(tmp_path / "even", method="vanilla", train=images(10, 0))
    even.step.model.fc_norm = torch.nn.BatchNorm1d(32)
    even.run()


def test_evaluation_takes_no_more_images_at_a_time_than_a_step(tmp_path):
    run, sizes = fit(tmp_path / "run", epochs=1), set()
    run.step.chunk_size = 3
    run.step.model.register_forward_hook(lambda model, args, out: None if model.training else sizes.add(len(out)))
    run.run()
    assert max(sizes) == 3


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("stop_at", [1, 4, 6])
@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_a_stop_and_a_resumption_give_the_same_run(method, stop_at, augment, tmp_path):
    data = dict(zip(("train", "mix"), augmentation() if augment else (None, None), strict=True))
    whole = fit(tmp_path / "whole", method=method, **data)
    expected = whole.run()
    stopped = fit(tmp_path / "parts", method=method, **data)
    stop_in(stopped, stop_at)
    with pytest.raises(Interrupted):
        stopped.run()
    heard = []
    resumed = fit(tmp_path / "parts", [lambda *done: heard.append(done)], method, **data)
    assert resumed.resumed_from_step == stop_at
    assert resumed.run() == expected
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))
    assert heard == [done for done in [(1, 3), (2, 6), (3, 9)] if done[1] >= stop_at]


def test_a_stop_in_a_listener_is_repeated_there(tmp_path):
    expected = fit(tmp_path / "whole").run()

    def stop(epochs, step):
        if epochs == 2:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(tmp_path / "parts", [stop]).run()
    heard = []
    assert fit(tmp_path / "parts", [lambda *done: heard.append(done)]).run() == expected
    assert heard == [(2, 6), (3, 9)]


def planned(monkeypatch, *accuracies):
    """Validation finds these accuracies, epoch after epoch."""

    def results(self, epoch):
        return {"train/loss": float(epoch), "val/acc": accuracies[epoch], "val/loss": 1.0}

    monkeypatch.setattr(Fit, "_results", results)


def state(run):
    return {name: value.clone() for name, value in run.step.model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_the_weights_of_the_best_epoch_are_kept(method, tmp_path, monkeypatch):
    planned(monkeypatch, 0.2, 0.7, 0.7)
    after = []
    run = fit(tmp_path, [lambda *done: after.append(state(run))], method, select="best")
    result = run.run()
    assert equal(state(run), after[2]) and not equal(after[2], after[3])
    assert result == {
        "train/loss": 1.0, "val/acc": 0.7, "val/loss": 1.0, "val/best_acc": 0.7, "val/best_epoch": 2,
    }  # fmt: skip


def test_the_last_weights_are_kept_by_default_and_the_best_epoch_is_told(tmp_path, monkeypatch):
    planned(monkeypatch, 0.2, 0.7, 0.4)
    after = []
    run = fit(tmp_path, [lambda *done: after.append(state(run))])
    result = run.run()
    assert equal(state(run), after[3]) and not (tmp_path / "best.pt").exists()
    assert (result["val/acc"], result["val/best_acc"], result["val/best_epoch"]) == (0.4, 0.7, 2)


@pytest.mark.parametrize("stop_at", [2, 3, 5, 6, 8, 9])
def test_the_best_weights_survive_a_stop(stop_at, tmp_path, monkeypatch):
    planned(monkeypatch, 0.6, 0.7, 0.5)
    whole = fit(tmp_path / "whole", select="best")
    expected = whole.run()
    stopped = fit(tmp_path / "parts", select="best")
    stop_in(stopped, stop_at)
    with pytest.raises(Interrupted):
        stopped.run()
    resumed = fit(tmp_path / "parts", select="best")
    assert resumed.resumed_from_step == stop_at
    assert resumed.run() == expected and equal(state(resumed), state(whole))


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:999]), lambda path: path.unlink()])
@pytest.mark.parametrize(("stop_at", "begins_at"), [(3, 3), (5, 0), (6, 0)])
def test_without_the_best_weights_training_begins_anew(damage, stop_at, begins_at, tmp_path, monkeypatch, caplog):
    planned(monkeypatch, 0.7, 0.6, 0.5)
    whole = fit(tmp_path / "whole", select="best")
    expected = whole.run()
    stopped = fit(tmp_path / "parts", select="best")
    stop_in(stopped, stop_at, "lr" if stop_at == 5 else "val/acc")  # in an epoch, or at its end
    with pytest.raises(Interrupted):
        stopped.run()
    damage(tmp_path / "parts" / "best.pt")
    resumed = fit(tmp_path / "parts", select="best")
    assert resumed.resumed_from_step == begins_at
    told = any("lacks the weights of epoch 1: training begins anew" in line for line in caplog.messages)
    assert told == (begins_at == 0)
    assert resumed.run() == expected and equal(state(resumed), state(whole))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_process_killed_between_its_two_files_loses_no_weights(epoch, tmp_path, monkeypatch):
    planned(monkeypatch, 0.5, 0.6, 0.7)
    whole = fit(tmp_path / "whole", select="best")
    expected = whole.run()

    class Killed(BaseException):
        pass

    def killed(folder, step):
        if killing.progress.step == 3 * epoch:
            raise Killed
        save(folder, step)

    save = loop.save_best
    monkeypatch.setattr(loop, "save_best", killed)
    killing = fit(tmp_path / "parts", select="best")
    with pytest.raises(Killed):
        killing.run()
    monkeypatch.setattr(loop, "save_best", save)
    resumed = fit(tmp_path / "parts", select="best")
    assert resumed.resumed_from_step == 3 * epoch
    assert resumed.run() == expected and equal(state(resumed), state(whole))


def test_the_best_of_epochs_that_were_validated(tmp_path):
    run = fit(tmp_path, epochs=4, eval_every=3, select="best")
    assert run.run()["val/best_epoch"] in (3, 4)


@pytest.mark.parametrize(("loss", "warned"), [(400_000.0, True), (2.0, False)])
def test_a_loss_far_above_guessing_is_told(loss, warned, caplog):
    loop._warn_of_loss(loss, 10)
    assert any("this run has learned nothing" in message for message in caplog.messages) == warned


@pytest.mark.parametrize(("count", "is_told"), [(5, True), (20, False)])
def test_a_batch_larger_than_the_training_images_is_told(tmp_path, caplog, count, is_told):
    fit(tmp_path, train=images(count, 0))
    assert ("dataset.batch_size=8: there are 5 training images" in caplog.text) is is_told
