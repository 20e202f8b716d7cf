"""Accuracy and loss over a data set."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], normalize: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """`val/acc` (a fraction) and `val/loss` (mean cross-entropy) over uint8 image batches."""
    model.eval()
    device = next(model.parameters()).device
    loss, correct, count = 0.0, 0, 0
    for images, labels in batches:
        labels = labels.to(device)
        logits = model(normalize(images.to(device)))
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return {"val/acc": correct / count, "val/loss": loss / count}
