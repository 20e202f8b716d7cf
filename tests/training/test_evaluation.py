"""Accuracy, balanced accuracy, recall and top-5, against counts by hand."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.gpu.emulated import DEVICE, emulated
from tests.small import batch, build
from wasi.data.spec import Data
from wasi.training import evaluation as module
from wasi.training.evaluation import evaluate
from wasi.training.step import TrainStep


class Says(nn.Module):
    """Names the class that is written into the first pixel."""

    def __init__(self, classes):
        super().__init__()
        self.scale, self.classes = nn.Parameter(torch.tensor(2.0)), classes

    def forward(self, x):
        return self.scale * nn.functional.one_hot(x[:, 0, 0, 0].long(), self.classes)


def image(said):
    return torch.full((3, 2, 2), said, dtype=torch.uint8)


def batches(pairs, size=7):
    images, labels = torch.stack([image(said) for said, _ in pairs]), torch.tensor([label for _, label in pairs])
    return zip(images.split(size), labels.split(size), strict=True)


def test_a_folder_of_95_to_5_does_not_look_fine():
    pairs = [(0, 0)] * 95 + [(0, 1)] * 4 + [(1, 1)]
    result = evaluate(Says(2), batches(pairs), lambda x: x)
    values = result.metrics("val")
    assert values["val/acc"] == pytest.approx(0.96) and values["val/balanced_acc"] == pytest.approx((1 + 0.2) / 2)
    assert set(values) == {"val/acc", "val/loss", "val/balanced_acc"}
    logits = torch.stack([2.0 * nn.functional.one_hot(torch.tensor(said), 2) for said, _ in pairs])
    expected = nn.functional.cross_entropy(logits, torch.tensor([label for _, label in pairs])).item()
    assert values["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert result.classes(["cat", "dog"]) == [
        {"name": "cat", "count": 95, "recall": 1.0},
        {"name": "dog", "count": 5, "recall": 0.2},
    ]


def test_a_class_without_images_has_no_recall_and_no_part_in_the_mean():
    result = evaluate(Says(3), batches([(0, 0), (1, 0), (2, 2)]), lambda x: x)
    assert result.metrics("test")["test/balanced_acc"] == pytest.approx((0.5 + 1) / 2)
    assert result.classes("abc")[1] == {"name": "b", "count": 0}


@pytest.mark.parametrize(("classes", "reported"), [(20, False), (21, True)])
def test_top_5_is_reported_above_20_classes(classes, reported):
    class Ordered(nn.Linear):
        def forward(self, x):
            return torch.arange(classes, 0, -1.0).expand(len(x), classes)  # 0 first, then 1, 2, …

    pairs = [(0, label) for label in (0, 1, 4, 5, 6, 19)]
    values = evaluate(Ordered(1, 1), batches(pairs), lambda x: x).metrics("val")
    assert values["val/acc"] == pytest.approx(1 / 6) and ("val/acc_top5" in values) == reported
    assert values.get("val/acc_top5", 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("at_once", [None, 1, 16])
@pytest.mark.parametrize("has_test", [True, False])
def test_the_classes_are_those_of_test_images_where_there_are_some(has_test, at_once):
    val, test = [(image(0), 0), (image(0), 1)], [(image(1), 1)] * 3
    data = Data(val, val, test if has_test else None, ["a", "b"])
    cfg = OmegaConf.create({"batch_size": 2, "num_workers": 0})
    model, sizes = Says(2), set()
    model.register_forward_hook(lambda _, args, out: sizes.add(len(out)))
    step = TrainStep(model, torch.optim.SGD(model.parameters()), lambda x: x)
    step.chunk_size = at_once
    metrics, classes = module.test(step, data, cfg)
    assert max(sizes) == (1 if at_once == 1 else 2)
    assert [row["count"] for row in classes] == ([0, 3] if has_test else [1, 1])
    assert metrics.get("test/acc") == (1.0 if has_test else None) and (metrics == {}) == (not has_test)


def test_more_batches_are_waited_for_no_more_often():
    model, found = build("timm_vit"), []
    for count in (1, 4):
        with emulated() as waits:
            evaluate(model.to(DEVICE), [batch(seed=seed) for seed in range(count)], lambda images: images)
        found.append(sum(waits.values()))
    assert found[0] == found[1] > 0
