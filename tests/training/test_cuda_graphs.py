"""`device.cuda_graphs=true`: where batch, gradients and coordinates lie, with graphs that a CPU can play.

What a GPU makes of real ones is in tests/gpu.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tests.small import applied, batch
from tests.training.test_step import DOUBLE, optimizer, outputs
from wasi.linalg import orthonormal
from wasi.training.compile import graphs, note_recording, uncompiled
from wasi.training.cuda_graphs import GraphedStep
from wasi.training.step import TrainStep

OPTIMIZERS = {
    "sgd": ("torch.optim.SGD", {"lr": 0.05}),
    "adamw": ("torch.optim.AdamW", {"lr": 3e-3}),
    "swan": ("wasi.training.swan.Swan", {"lr": 3e-3, "momentum": 0.9}),
}


class Played(GraphedStep):
    """Graphs that compute again what they have recorded, from where it lay then and to where it lay then."""

    played = 0

    def _record(self, run):
        where = [p.data_ptr() for p in (*self._batch, *self._grads.values())]

        def replay():
            assert where == [p.data_ptr() for p in (*self._batch, *self._grads.values())][: len(where)]
            self.played += 1
            run()

        note_recording()
        return SimpleNamespace(replay=replay)


def trained(kind, method, name, sizes=(8,) * 12):
    target, options = OPTIMIZERS[name]
    model = applied("timm_vit", method, DOUBLE)
    step = kind(model, optimizer(model, target, **options), lambda images: images, clip_norm=2.0)
    losses = [step(*batch(size, seed, DOUBLE)).loss for seed, size in enumerate(sizes)]
    return outputs(model), losses, step


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["vanilla", "lora", "wsi", "wasi", "asi"])
def test_recorded_steps_are_those_of_a_plain_one(method, name, free, monkeypatch):
    monkeypatch.setattr(orthonormal, "reading_is_free", lambda a: free)
    found, losses, step = trained(Played, method, name)
    expected, plain, _ = trained(TrainStep, method, name)
    assert step.played >= 12
    assert losses == pytest.approx(plain, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_subspace_work_that_cannot_be_recorded_runs_as_it_is(caplog):
    class Refused(Played):
        def _record(self, run):
            if not isinstance(run, partial):
                return super()._record(run)
            for layer in self.subspace.folding:  # what follows the optimizer's step: a recording computes nothing
                layer.forget_update()
            for basis in self._bases():
                basis.grad = None
            raise RuntimeError("operation not permitted when stream is capturing")

    found, losses, step = trained(Refused, "wasi", "sgd")
    expected, plain, _ = trained(TrainStep, "wasi", "sgd")
    assert step.played == 11 and losses == pytest.approx(plain, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert sum("started as before" in line for line in caplog.messages) == 1


def test_a_smaller_batch_and_a_look_into_the_model_are_not_recorded():
    _, _, step = trained(Played, "vanilla", "sgd", sizes=(8, 8, 8))
    before, recorded = step.played, graphs()
    step(*batch(3, dtype=DOUBLE))
    with uncompiled():
        step(*batch(dtype=DOUBLE))
    assert step.played == before and graphs() == recorded
    step(*batch(dtype=DOUBLE))
    assert step.played == before + 2


def test_a_loaded_optimizer_is_recorded_anew():
    _, _, step = trained(Played, "wasi", "swan")
    state = {
        "state": {k: {n: v.clone() for n, v in s.items()} for k, s in step.optimizer.state_dict()["state"].items()}
    }
    step.optimizer.load_state_dict({**step.optimizer.state_dict(), **state})
    before = graphs()
    step(*batch(dtype=DOUBLE))
    assert graphs() > before
