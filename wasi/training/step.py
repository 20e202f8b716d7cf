"""One whole training step: forward pass, loss, backward pass, subspace iteration and update."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wasi.data.transfer import to_device
from wasi.errors import Diverged, UserError
from wasi.models.structure import batch_norms
from wasi.training import parallel
from wasi.training.subspace_iteration import SubspaceIteration
from wasi.training.swan import Swan


@dataclass(frozen=True)
class StepResult:
    """The outcome of one step on a batch.

    Attributes:
        loss: mean over the batch.
        correct, count: correctly classified images, and all images of the batch.
        grad_norm: global gradient norm before clipping, see `SubspaceIteration.prepare`.
    """

    loss: float
    correct: int
    count: int
    grad_norm: float


class TrainStep:
    """`step(images, labels)` trains `model` on one batch, or, in data-parallel training, on this process's share of it.

    Args:
        model: the model; a step puts it into training mode.
        optimizer: over `model`'s trainable parameters, see `build_optimizer`.
        normalize: converts uint8 images `[B, 3, S, S]` to normalised float32.
        clip_norm: the largest global gradient norm; None does not clip.
        micro_batch_size: images per forward pass; gradients are accumulated to those of the whole batch. None takes the
            whole batch at once.
        step_in_backward: let `optimizer`, a `Swan`, step on each matrix as soon as its gradient is complete, and free
            the gradient. If a step diverges, some weights may have changed.
        label_smoothing: share of every label that is spread over all classes.

    Raises:
        UserError: in data-parallel training, `step_in_backward`, or a model with batch norms, whose statistics would be
            of the images of each process by themselves.
    """

    chunk_size: int | None = None  # the most images per chunk of `LeanStep`; None: no chunks
    total_steps: int | None = None  # of the whole training; set once it is known

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
        self.penalties: list[Callable[[], Tensor]] = []  # scalar terms that a method adds to the loss
        self.subspace = SubspaceIteration(model, optimizer, summed_over_processes=True)
        self.device = next(model.parameters()).device
        self.in_backward: dict[Tensor, RemovableHandle] = {}  # parameter -> the hook that steps on it
        self._completed: list[Tensor] = []  # norms of the gradients of steps that were taken in the backward pass
        if parallel.is_parallel() and batch_norms(model):
            allowed = "1 for a model with batch norms, which take the statistics of the whole batch"
            raise UserError("WORLD_SIZE", parallel.world_size(), allowed)
        if step_in_backward:
            if parallel.is_parallel():
                allowed = "false for data-parallel training: its gradients are complete only after the backward pass"
                raise UserError("train.step_in_backward", "true", allowed)
            assert isinstance(optimizer, Swan)
            for parameter, _ in optimizer.whitened_parameters():
                hook = parameter.register_post_accumulate_grad_hook(lambda p: self.complete([p]))
                self.in_backward[parameter] = hook

    def evaluation_size(self, batch_size: int) -> int:
        """Return the batch size for evaluation: `batch_size`, but at most `chunk_size`."""
        return min(batch_size, self.chunk_size or batch_size)

    def prepare(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Convert a loader's batch to what a step takes: on the device, normalised."""
        return self.normalize(to_device(images, self.device)), to_device(labels, self.device)

    def __call__(self, images: Tensor, labels: Tensor) -> StepResult:
        """Take one step on a batch as `prepare` returns it.

        Raises:
            Diverged: loss or gradient norm is not finite, in which case no weight has changed (unless
                `step_in_backward`); or, on a CPU, a decomposition in the update met a number that is not finite, in
                which case some weights may have changed.
        """
        self.model.train()
        self._completed.clear()
        try:
            found, count = self._accumulate(images, labels)
            norm = self.subspace.prepare(self.clip_norm)
            if self._completed:  # NaN if a gradient of a step that was taken already is not finite
                norm = norm + 0.0 * torch.stack(self._completed).sum()
            # the only place in a step where the host waits for the device
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
        """Step, during a backward pass, on those of `parameters` that `Swan` whitens, and fold steps on coordinates.

        Their gradients must be complete.
        """
        assert isinstance(self.optimizer, Swan)
        parameters = list(parameters)
        if gradients := [parameter.grad for parameter in parameters if parameter.grad is not None]:
            self._completed.append(nn.utils.get_total_norm(gradients))
        self.optimizer.step_matrices(parameters)
        self.subspace.fold()

    def _accumulate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Accumulate the gradients of the mean loss over the whole batch, and of the penalties.

        Returns:
            The mean loss (without penalties) and the number of correctly classified images, as float64 `[2]`; and the
            number of images. In data-parallel training all are those of the whole batch.
        """
        size, count = self.micro_batch_size or len(labels), parallel.total(len(labels))
        found = torch.zeros(2, dtype=torch.float64, device=self.device)
        summed = self.subspace.summed() if parallel.is_parallel() else []
        versions = parallel.zero_gradients_except_first(summed)
        parts = zip(images.split(size), labels.split(size), strict=True) if len(labels) else ()
        for x, y in parts:
            logits = self.model(x)
            part = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) * (len(y) / count)
            if self.in_backward and not part.isfinite():
                raise Diverged(f"training loss is {part.item()}")
            part.backward()
            found[0] += part.detach()
            named = y if y.dim() == 1 else y.argmax(1)  # for mixed images, the class with the largest share
            found[1] += (logits.detach().argmax(1) == named).sum()
        unchanged = parallel.sum_gradients(summed, versions)
        if isinstance(self.optimizer, Swan):
            self.optimizer.mark_as_momentum(unchanged)
        for penalty in self.penalties:
            penalty().backward()
        return parallel.all_reduce_sum(found), count
