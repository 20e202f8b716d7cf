"""One whole optimizer step: forward, loss, backward, subspace work, update."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wasi.errors import Diverged, UserError
from wasi.training import parallel
from wasi.training.subspace_iteration import SubspaceIteration
from wasi.training.swan import Swan


@dataclass(frozen=True)
class StepResult:
    """`loss`: mean over the batch; `correct` of `count` images; `grad_norm` before clipping."""

    loss: float
    correct: int
    count: int
    grad_norm: float


class TrainStep:
    """`step(images, labels)` trains `model` on one batch, or, in data-parallel training, on this process's share of it.

    Args:
        model: in training mode while a step runs.
        optimizer: over `model`'s trainable parameters.
        normalize: uint8 `[B, 3, S, S]` to float32.
        clip_norm: largest global gradient norm, or None.
        micro_batch_size: images per forward pass; gradients add up to those of the whole batch.
        step_in_backward: `optimizer`, a `Swan`, steps on a matrix as soon as its gradient is complete, which is let go
            then. A step that diverges may have moved some weights already.
        label_smoothing: share of every label that is spread over all classes.
    """

    chunk_size: int | None = None  # images at a time inside repeated modules, at most; None: a whole batch
    total_steps: int | None = None  # of the training that it is used for, once that is known

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        normalize: Callable[[Tensor], Tensor],
        clip_norm: float | None = None,
        micro_batch_size: int | None = None,
        step_in_backward: bool = False,
        label_smoothing: float = 0.0,
    ):
        self.model, self.optimizer, self.normalize = model, optimizer, normalize
        self.clip_norm, self.micro_batch_size = clip_norm, micro_batch_size
        self.label_smoothing = label_smoothing
        self.penalties: list[Callable[[], Tensor]] = []  # scalars that a method adds to the loss that is minimised
        self.subspace = SubspaceIteration(model, optimizer)
        self.device = next(model.parameters()).device
        self.in_backward: dict[Tensor, RemovableHandle] = {}  # parameter -> the hook that steps on it
        if step_in_backward:
            if parallel.is_parallel():
                allowed = "false for data-parallel training: its gradients are complete only after the backward pass"
                raise UserError("train.step_in_backward", "true", allowed)
            assert isinstance(optimizer, Swan)
            for parameter, _ in optimizer.whitened_parameters():
                hook = parameter.register_post_accumulate_grad_hook(lambda p: self.complete([p]))
                self.in_backward[parameter] = hook

    def evaluation_size(self, batch_size: int) -> int:
        """Images at a time in evaluation: no more than a step takes, and the same whether or not one has run."""
        return min(batch_size, self.chunk_size or batch_size)

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A loader's batch in the form in which a step takes it: on the device, normalised."""
        return self.normalize(images.to(self.device)), labels.to(self.device)

    def __call__(self, images: Tensor, labels: Tensor) -> StepResult:
        """One step on a loader's batch as `prepare` gives it.

        Raises:
            Diverged: loss or gradient norm is not finite, before any weight changes (but for `step_in_backward`); or a
                decomposition in the update met a number that is not, when some weights may have changed.
        """
        self.model.train()
        try:
            found, count = self._accumulate(images, labels)
            norm = self.subspace.prepare(self.clip_norm)
            # the one place in a step where the host waits for the device
            loss, correct, norm = torch.cat([found, norm.double().view(1)]).tolist()
            if not isfinite(loss):
                raise Diverged(f"training loss is {loss}")
            if not isfinite(norm):
                raise Diverged(f"gradient norm is {norm}")
            self.optimizer.step()
            self.subspace.finish()
        except torch.linalg.LinAlgError as error:  # a decomposition met numbers that are not finite
            raise Diverged(str(error)) from error
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, int(correct), count, norm)

    @torch.no_grad()
    def complete(self, parameters: Iterable[Tensor]) -> None:
        """Step on matrices whose gradients are complete, in the middle of a backward pass."""
        assert isinstance(self.optimizer, Swan)
        self.optimizer.step_matrices(parameters)
        self.subspace.fold()

    def _accumulate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Gradients of the whole batch's mean loss; that loss and the images named right, `[2]`, float64; images."""
        size, count = self.micro_batch_size or len(labels), parallel.total(len(labels), self.device)
        found = torch.zeros(2, dtype=torch.float64, device=self.device)
        summed = self.subspace.summed() if parallel.is_parallel() else []
        parallel.keep_sums_once(summed)
        parts = zip(images.split(size), labels.split(size), strict=True) if len(labels) else ()
        for x, y in parts:
            logits = self.model(x)
            part = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) * (len(y) / count)
            if self.in_backward and not part.isfinite():
                raise Diverged(f"training loss is {part.item()}")
            part.backward()
            found[0] += part.detach()
            named = y if y.dim() == 1 else y.argmax(1)  # of mixed images the class with the larger share
            found[1] += (logits.detach().argmax(1) == named).sum()
        parallel.sum_gradients(summed)
        for penalty in self.penalties:
            penalty().backward()
        return parallel.all_reduce_sum(found), count
