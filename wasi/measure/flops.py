"""Work of a training step and of an inference pass, in FLOPs (2 per multiply-add).

A whole real step is counted by torch's dispatch counter, so that accumulation, checkpointing, `lean` and whatever
a layer does are in the count as they run. Forward passes are counted by fvcore. Products, attention and
decompositions count. Elementwise work, norms and losses do not.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.dispatch_flops import flop_counter
from wasi.measure.forward_flops import forward_flops
from wasi.models.modes import evaluating
from wasi.training.step import TrainStep


def inference_flops(model: nn.Module, images: Tensor) -> int:
    """FLOPs of a forward pass of one batch of normalised images in evaluation mode."""
    with evaluating(model):
        return forward_flops(model, images)


def step_flops(
    step: TrainStep,
    images: Tensor,
    labels: Tensor,
    normalised: Tensor,
    subspace_work: Sequence[Target],
    observer: AbstractContextManager | None = None,
) -> dict[str, int]:
    """`flops/train_{forward,backward,subspace}` of a whole step, and their sum `flops/train_step`.

    Trains the model a step further, which takes as long as any step; the forward pass takes one without gradients.

    - forward: a forward pass of the whole batch, as it runs in training mode without gradients;
    - subspace: all that runs inside `subspace_work`, in whichever pass;
    - backward: all else of the step, so what is computed again, or for the backward pass only, counts there.

    What runs in the optimizer's `step` but not in `subspace_work` is left out.

    Args:
        images, labels: as the step takes them; normalised: the same images as the model takes them.
        subspace_work: callables, each as its owner and its name there.
        observer: a context that the step alone runs in, so that one step serves another measurement as well.
    """
    step.model.train()
    forward = forward_flops(step.model, normalised)
    with observer or nullcontext(), flop_counter() as counter:
        phases = Breakdown({"subspace": subspace_work, "optimizer": ()}, read=counter.get_total_flops)
        with phases, _optimizers_in(phases, "optimizer"):
            step(images, labels)
    subspace, rest = phases.spent["subspace"], phases.spent["rest"]
    return {
        "flops/train_forward": forward,
        "flops/train_backward": rest - forward,
        "flops/train_subspace": subspace,
        "flops/train_step": rest + subspace,
    }


@contextmanager
def _optimizers_in(phases: Breakdown, label: str) -> Iterator[None]:
    """Whatever torch optimizer steps inside, its step belongs to `label`."""
    handles = [
        register_optimizer_step_pre_hook(lambda *_: phases.begin(label)),
        register_optimizer_step_post_hook(lambda *_: phases.end()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
