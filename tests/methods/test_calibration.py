import logging

import hydra
import pytest
import torch
from torch.utils.data import Dataset

from wasi.bench.subject import Subject
from wasi.methods.calibration import Calibration


class Numbered(Dataset):
    """Item i: an image of one pixel with value i, label i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((3, 1, 1), index, dtype=torch.uint8), index


def test_few_images_make_as_many_calibration_batches_as_they_can_and_it_says_so_once(caplog):
    calibration = Calibration(Numbered(5), torch.Tensor.float, batch_size=4, count=3, seed=0)
    with caplog.at_level(logging.WARNING):
        passes = [torch.cat([labels for _, labels in calibration]) for _ in range(2)]
    assert sorted(passes[0].tolist()) == list(range(5)) and torch.equal(*passes)
    assert caplog.messages == [
        "rank.calibration_batches=3: there are 5 training images, so 2 at dataset.batch_size=4"
    ]


def test_enough_images_make_the_calibration_batches_asked_for(caplog):
    batches = list(Calibration(Numbered(9), torch.Tensor.float, batch_size=4, count=2, seed=0))
    assert [len(labels) for _, labels in batches] == [4, 4] and not caplog.messages


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        (["method=svd_llm", "rank.calibration_batches=2"], 2),
        (["method=svd_llm", "method.calibration_batches=3"], 3),
        (["method=asi", "rank.calibration_batches=2"], 2),
    ],
)
def test_a_method_gets_the_batches_that_its_own_option_asks_for(options, batches, compose_config, monkeypatch):
    cfg = compose_config(
        "model=vit_micro", "model.weights=random", "dataset=synthetic", "dataset.train_size=20",
        "dataset.val_size=10", "dataset.test_size=10", "dataset.batch_size=4", *options,
    )  # fmt: skip
    seen = []
    monkeypatch.setattr(
        hydra.utils.get_class(cfg.method["_target_"]), "apply", lambda self, model, data: seen.extend(data)
    )
    Subject(cfg).model()
    assert len(seen) == batches
