"""docs/own_loop.md: its example, as it stands there, trains as `TrainStep` does."""

import re
from pathlib import Path

import torch

from tests.small import CLASSES, batch, build
from wasi.training.step import TrainStep

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "own_loop.md"


def test_the_loop_of_the_document_makes_the_steps_of_train_step(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    before_the_loop, loop = code.split("for images, labels in batches:")
    monkeypatch.setattr("timm.create_model", lambda *_, **__: build("timm_vit"))

    def trained(code: str) -> dict:
        names = {"calibration": [batch()], "batches": 5 * [batch()], "TrainStep": TrainStep, "losses": []}
        exec(code, names)
        return names

    theirs = trained(before_the_loop + "for images, labels in batches:" + loop)
    step = "step = TrainStep(model, optimizer, None)\nfor one in batches:\n    losses.append(step(*one).loss)"
    ours = trained(before_the_loop + step)
    assert len(ours["subspace"].coordinate_layers) > 0 and ours["losses"][-1] < ours["losses"][0]
    expected = ours["model"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in theirs["model"].state_dict().items())
    assert theirs["model"](batch()[0]).shape[1] == CLASSES
