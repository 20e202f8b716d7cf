"""The breakdown of a training step's time into parts, and the callables that belong to each.

- decomposition: Tucker compression of inputs, updates of bases and factors (tangent projection, retraction).
- factor_algebra: products with factors and adapters in place of dense weights.
- attention: scores, softmax and weighted values, without the projections around them.
- optimizer: clipping, update, `zero_grad`.
- rest: everything else, such as dense products, norms and GELU.
"""

import sys
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from wasi.layers.factored import FactoredProduct
from wasi.layers.tucker_linear import TuckerProduct
from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.run import subspace_work, tracks_subspaces
from wasi.measure.timing import synchronizer
from wasi.training.step import TrainStep
from wasi.training.subspace_iteration import SubspaceIteration

PARTS = ("decomposition", "factor_algebra", "attention", "optimizer", "rest")

_OF_AN_OPTIMIZER = ("step", "step_matrices", "zero_grad")  # the second is of Swan, called in the backward pass, too
_DENSE = "dense"  # label of `F.linear`, see `StepBreakdown._meant`
_FOLLOWED = ("attention", "factor_algebra")  # parts whose backward passes are autograd nodes, which cannot be wrapped


def breakdown_steps(
    step: TrainStep,
    batch: tuple[Tensor, Tensor],
    count: int,
    own: Mapping[str, Sequence[Target]] | None = None,
    warmup: int = 1,
) -> list[dict[str, float]]:
    """Return part -> milliseconds for each of `count` whole steps, after `warmup` unmeasured ones.

    Args:
        own: part -> callables of the method's own layers (`Method.step_parts`).
    """
    for _ in range(warmup):
        step(*batch)
    found = []
    for _ in range(count):
        with StepBreakdown(targets(step, own), synchronizer(step.device.type)) as breakdown:
            step(*batch)
        spent = breakdown.ms()
        found.append({part: spent[part] for part in PARTS})
    return found


def targets(step: TrainStep, own: Mapping[str, Sequence[Target]] | None = None) -> dict[str, list[Target]]:
    """Return part -> callables to wrap for this step; `own` as for `breakdown_steps`."""
    own = own or {}
    attention: list[Target] = [(F, "scaled_dot_product_attention")]
    swin = sys.modules.get("torchvision.models.swin_transformer")
    if swin is not None:  # its attention is one function that includes the projections
        attention.append((swin, "shifted_window_attention"))
    return {
        "decomposition": [*(subspace_work(step) if tracks_subspaces(step) else []), *own.get("decomposition", ())],
        "factor_algebra": [
            (FactoredProduct, "forward"),
            (FactoredProduct, "backward"),
            (TuckerProduct, "backward"),
            *own.get("factor_algebra", ()),
        ],
        "attention": attention,
        "optimizer": [
            (SubspaceIteration, "prepare"),
            *((step.optimizer, name) for name in _OF_AN_OPTIMIZER if hasattr(step.optimizer, name)),
        ],
        _DENSE: [(F, "linear")],
    }


class StepBreakdown(Breakdown):
    """`Breakdown` that also assigns the backward passes of attention and factor algebra to these parts.

    A wrapped call records autograd nodes between its arguments and its result; hooks before and after each of these
    nodes count its time for the call's label.
    """

    def __enter__(self) -> "StepBreakdown":
        self._nodes: set[torch.autograd.graph.Node] = set()
        super().__enter__()
        return self

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._nodes.clear()

    def begin(self, label: str) -> None:
        super().begin(self._meant(label))

    def called(self, label: str, arguments: object, result: object) -> None:
        label = self._meant(label)
        if label not in _FOLLOWED and self._labels[-1] not in _FOLLOWED:
            return
        before = {t.grad_fn for t in tree_leaves(arguments) if isinstance(t, Tensor)}
        for node in _between(result, before):
            if node not in self._nodes:
                self._nodes.add(node)
                node.register_prehook(lambda grads: self.begin(label))
                node.register_hook(lambda *grads: self.end())

    def _meant(self, label: str) -> str:
        """Map `_DENSE` to a part: `rest` inside attention, where it is a projection, else the current part."""
        if label != _DENSE:
            return label
        return "rest" if self._labels[-1] == "attention" else self._labels[-1]


def _between(result: object, before: set) -> list:
    """Return the autograd nodes between `result` and the nodes `before`, without these and without leaves."""
    pending = [t.grad_fn for t in tree_leaves(result) if isinstance(t, Tensor) and t.grad_fn is not None]
    found: dict = {}
    while pending:
        node = pending.pop()
        if node in before or node in found or node.name().endswith("AccumulateGrad"):
            continue
        found[node] = None
        pending += [after for after, _ in node.next_functions if after is not None]
    return list(found)
