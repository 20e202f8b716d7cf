"""Accuracy, loss and recall over a data set."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.data.loader import Loader, eval_batches
from wasi.data.spec import Data
from wasi.training import parallel
from wasi.training.step import TrainStep

_TOP5_ABOVE = 20  # classes


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a data set.

    loss: mean cross-entropy; counts, correct: int64 `[C]`, images of every class, and those of them named right;
    in_top5: images whose class is among the five highest logits.
    """

    loss: float
    counts: Tensor
    correct: Tensor
    in_top5: int

    def metrics(self, split: str) -> dict[str, float]:
        """`<split>/acc`, `loss`, `balanced_acc` and, of more than 20 classes, `acc_top5`; shares in [0, 1].

        Balanced accuracy is the mean recall of the classes that have images, whatever the number of these.
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
        """Per class its `name`, `count` of images and, where there are any, `recall`."""
        rows = zip(names, self.counts.tolist(), self.correct.tolist(), strict=True)
        return [
            {"name": name, "count": count, **({"recall": correct / count} if count else {})}
            for name, count, correct in rows
        ]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], normalize: Callable[[Tensor], Tensor]
) -> Evaluation:
    """The model in evaluation mode over uint8 image batches, of which there is at least one.

    In data-parallel training `batches` are this process's shares, of which some may be empty; the result is the
    whole's.
    """
    model.eval()
    device = next(model.parameters()).device
    loss, in_top5, classes = 0.0, 0, 0
    found = [torch.empty(0, dtype=torch.int64, device=device)]  # classes of images
    right = [*found]  # and of those named right
    for images, labels in batches:
        if not len(labels):
            continue
        logits, labels = model(normalize(images.to(device))), labels.to(device)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        classes = logits.shape[1]
        found.append(labels)
        right.append(labels[logits.argmax(1) == labels])
        in_top5 += int((logits.topk(min(5, classes)).indices == labels[:, None]).sum())
    classes = parallel.largest(classes, device)
    counts, correct = (torch.cat(some).bincount(minlength=classes) for some in (found, right))
    loss, in_top5 = parallel.all_reduce_sum(torch.tensor([loss, in_top5], dtype=torch.float64, device=device)).tolist()
    counts, correct = parallel.all_reduce_sum(counts).cpu(), parallel.all_reduce_sum(correct).cpu()
    return Evaluation(loss / int(counts.sum()), counts, correct, int(in_top5))


def test(step: TrainStep, data: Data, cfg_dataset) -> tuple[dict[str, float], list[dict]]:
    """`test/*` of the finished model, and its classes on the test images.

    Without a test split there are no metrics, and the classes are those of validation. In training nothing else reads
    test images, but for validation under `dataset.val_source=test` and the check of a user's folder for damaged files.
    """
    images = data.val if data.test is None else data.test
    loader = Loader(images, cfg_dataset.num_workers, step.device)
    batches = eval_batches(loader, step.evaluation_size(cfg_dataset.batch_size), part=parallel.shard)
    result = evaluate(step.model, batches, step.normalize)
    return {} if data.test is None else result.metrics("test"), result.classes(data.classes)
