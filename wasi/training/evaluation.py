"""Accuracy, loss and recall of a model over a data set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.data.loader import Loader, eval_batches
from wasi.data.spec import Data
from wasi.data.transfer import to_device
from wasi.training import parallel
from wasi.training.step import TrainStep

_TOP5_ABOVE = 20  # top-5 accuracy is reported for more classes than this


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on a data set.

    Attributes:
        loss: mean cross-entropy.
        counts, correct: int64 `[C]`, the images of each class, and how many of them are classified correctly.
        in_top5: the number of images whose class is among the five highest logits.
    """

    loss: float
    counts: Tensor
    correct: Tensor
    in_top5: int

    def metrics(self, split: str) -> dict[str, float]:
        """Return `<split>/acc`, `/loss`, `/balanced_acc` and, for more than 20 classes, `/acc_top5`.

        Accuracies are in [0, 1]. Balanced accuracy is the mean recall over the classes that have images.
        """
        images = int(self.counts.sum())
        seen = self.counts > 0
        recalls = self.correct[seen].double() / self.counts[seen]
        values = {
            f"{split}/acc": int(self.correct.sum()) / images,
            f"{split}/loss": self.loss,
            f"{split}/balanced_acc": recalls.mean().item(),
        }
        return values | ({f"{split}/acc_top5": self.in_top5 / images} if len(self.counts) > _TOP5_ABOVE else {})

    def classes(self, names: Sequence[str]) -> list[dict]:
        """Return for each class its `name`, the `count` of its images and, if there are any, its `recall`."""
        rows = zip(names, self.counts.tolist(), self.correct.tolist(), strict=True)
        return [
            {"name": name, "count": count, **({"recall": correct / count} if count else {})}
            for name, count, correct in rows
        ]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], normalize: Callable[[Tensor], Tensor]
) -> Evaluation:
    """Evaluate `model`, in evaluation mode, on batches of uint8 images and labels; leaves it in evaluation mode.

    In data-parallel training, every process passes its shares of the batches, some of which may be empty, and gets the
    result for all of them.

    Args:
        batches: (uint8 `[B, 3, S, S]`, int64 `[B]`) pairs, at least one.
        normalize: converts uint8 images to normalised float32.
    """
    model.eval()
    device = next(model.parameters()).device
    loss_and_top5 = torch.zeros(2, dtype=torch.float64, device=device)  # read at the end: a GPU is not waited for
    classes = 0
    seen = [torch.empty(0, dtype=torch.int64, device=device)]  # labels of all images
    right = [torch.empty(0, dtype=torch.bool, device=device)]  # whether they are classified correctly
    for images, labels in batches:
        if not len(labels):
            continue
        images, labels = to_device(images, device), to_device(labels, device)
        logits = model(normalize(images))
        classes = logits.shape[1]
        loss_and_top5[0] += F.cross_entropy(logits, labels, reduction="sum")
        loss_and_top5[1] += (logits.topk(min(5, classes)).indices == labels[:, None]).sum()
        seen.append(labels)
        right.append(logits.argmax(1) == labels)
    classes = parallel.largest(classes)
    all_labels, is_right = torch.cat(seen), torch.cat(right)
    counts, correct = (some.bincount(minlength=classes) for some in (all_labels, all_labels[is_right]))
    counts, correct = parallel.all_reduce_sum(counts).cpu(), parallel.all_reduce_sum(correct).cpu()
    loss, in_top5 = parallel.all_reduce_sum(loss_and_top5).tolist()
    return Evaluation(loss / int(counts.sum()), counts, correct, int(in_top5))


def test(step: TrainStep, data: Data, cfg_dataset) -> tuple[dict[str, float], list[dict]]:
    """Evaluate the finished model on the test split.

    Test images are read only here, for validation under `dataset.val_source=test`, and when a user's folder is checked
    for damaged files.

    Returns:
        The metrics `test/*` and `Evaluation.classes`. Without a test split, no metrics, and the classes' results on the
        validation split.
    """
    images = data.val if data.test is None else data.test
    loader = Loader(images, cfg_dataset.num_workers, step.device)
    batches = eval_batches(loader, step.evaluation_size(cfg_dataset.batch_size), part=parallel.shard)
    result = evaluate(step.model, batches, step.normalize)
    return {} if data.test is None else result.metrics("test"), result.classes(data.classes)
