"""FLOPs (2 per multiply-add) of a training step and of an inference pass.

Training steps are counted as they run, by torch's dispatch counter, so that accumulation, checkpointing, `lean` and all
operations of layers are included. Forward passes are counted by fvcore. Matrix products, attention and decompositions
count; elementwise operations, norms and losses do not.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.dispatch_flops import flop_counter
from wasi.measure.forward_flops import forward_flops
from wasi.models.modes import eval_mode
from wasi.training.step import TrainStep


def inference_flops(model: nn.Module, images: Tensor) -> int:
    """Return the FLOPs of a forward pass of one batch of normalised images in evaluation mode."""
    with eval_mode(model):
        return forward_flops(model, images)


def step_flops(
    step: TrainStep,
    images: Tensor,
    labels: Tensor,
    normalised: Tensor,
    subspace_work: Sequence[Target],
    observer: AbstractContextManager | None = None,
) -> dict[str, int]:
    """Return `flops/train_{forward,backward,subspace}` of a whole step, and their sum `flops/train_step`.

    This trains the model by one step, and runs one more forward pass without gradients.

    - forward: a forward pass of the whole batch in training mode without gradients;
    - subspace: everything that runs inside `subspace_work`, in whichever pass;
    - backward: the rest of the step, including recomputation and what a forward pass does for the backward pass only.

    What runs in the optimizer's `step`, but not in `subspace_work`, is left out.

    Args:
        images, labels: as the step takes them.
        normalised: the same images, as the model takes them.
        subspace_work: callables, each given as (owner, attribute name).
        observer: a context in which only the step runs, so that another measurement can share it.
    """
    step.model.train()
    forward = forward_flops(step.model, normalised)
    with observer or nullcontext(), flop_counter() as counter:
        phases = Breakdown({"subspace": subspace_work, "optimizer": ()}, read=counter.get_total_flops)
        begins = register_optimizer_step_pre_hook(lambda *_: phases.begin("optimizer"))
        ends = register_optimizer_step_post_hook(lambda *_: phases.end())
        with begins, ends, phases:
            step(images, labels)
    subspace, rest = phases.spent["subspace"], phases.spent["rest"]
    return {
        "flops/train_forward": forward,
        "flops/train_backward": rest - forward,
        "flops/train_subspace": subspace,
        "flops/train_step": rest + subspace,
    }
