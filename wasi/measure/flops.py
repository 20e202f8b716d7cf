"""Work of a training step and of an inference pass, in FLOPs (2 per multiply-add).

The forward pass is counted by fvcore on the model as it runs without gradients. The whole step is counted by torch's
dispatch counter while it really runs, with all that is repeated, accumulated and decomposed, so nothing is modelled and
a new layer needs no rule. Products, attention, convolutions and decompositions count; elementwise work does not.
"""

import logging
import warnings
from math import prod

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.dispatch_flops import flop_counter
from wasi.models.modes import evaluating, without_fast_path

log = logging.getLogger(__name__)


def inference_flops(model: nn.Module, images: Tensor) -> int:
    """One batch in eval mode, by fvcore.

    Args:
        images: the normalised batch, `[B, 3, S, S]`.
    """
    with warnings.catch_warnings(), evaluating(model), without_fast_path():
        warnings.simplefilter("ignore")  # fvcore's import and its tracing tell that torch.jit is old
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        for kind in ("batch_norm", "group_norm", "layer_norm", "instance_norm", "adaptive_avg_pool2d"):
            analysis.set_op_handle(f"aten::{kind}", lambda inputs, outputs: 0)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        analysis.set_op_handle("aten::baddbmm", _batched_product_macs)
        macs = analysis.total()
        unknown = [kind for kind in analysis.unsupported_ops() if kind.startswith("prim::PythonOp")]
    for kind in unknown:
        log.warning("flops: fvcore has no rule for %s, counted as none", kind.removeprefix("prim::PythonOp."))
    return 2 * int(macs)


def step_flops(step, images: Tensor, labels: Tensor, normalised: Tensor, subspace: list[Target]) -> dict[str, int]:
    """The `flops/*` metrics of one whole step, which is made, and of inference.

    `flops/train_backward` is what of the step is neither forward pass nor subspace work, so what is computed again
    counts there. The arithmetic of the optimizer is left out of all of them, but for what `subspace` names.

    Args:
        step: as it trains, a `TrainStep`; images, labels: a batch as `step.prepare` gives it.
        normalised: the same images as the model takes them; subspace: callables whose work is subspace work.
    """
    forward = inference_flops(step.model, normalised)
    counter = flop_counter()
    with counter, _Phases(counter, {"subspace": subspace, "optimizer": [(step.optimizer, "step")]}) as phases:
        step(images, labels)
    spent = phases.flops()
    whole = spent["rest"] + spent["subspace"]
    return {
        "flops/train_forward": forward,
        "flops/train_backward": whole - forward - spent["subspace"],
        "flops/train_subspace": spent["subspace"],
        "flops/train_step": whole,
        "flops/inference": forward,
    }


class _Phases(Breakdown):
    """A breakdown of the FLOPs of a counter, in place of time, by the callable in which they are spent."""

    def __init__(self, counter: FlopCounterMode, targets: dict[str, list[Target]]):
        super().__init__(targets)
        self._counter = counter

    def __enter__(self) -> "_Phases":
        super().__enter__()
        self._since = self._counter.get_total_flops()
        return self

    def flops(self) -> dict[str, int]:
        """FLOPs per label and for `rest`."""
        return dict(self._spent)

    def _switch(self) -> None:
        now = self._counter.get_total_flops()
        self._spent[self._labels[-1]] += now - self._since
        self._since = now


def _sizes(value) -> list[int]:
    return value.type().sizes()


def _attention_macs(inputs, outputs) -> int:
    """Scores and weighted values: `B H Lq Lk (d + dv)`."""
    query, key, value = (_sizes(v) for v in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _batched_product_macs(inputs, outputs) -> int:
    a, b = (_sizes(v) for v in inputs[1:3])
    return prod(a) * b[-1]
