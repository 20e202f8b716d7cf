"""Perplexity of each layer at each threshold of its saved input, measured on one batch.

Perplexity, in the sense of the WASI and ASI papers, is `||dW_exact - dW_lowrank||_F`: the error of a layer's weight
gradient when its input is saved as a Tucker decomposition and everything else is exact.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasi.linalg import tucker
from wasi.linalg.rank import explained_rank
from wasi.linalg.spectrum import mode_spectrum
from wasi.methods.calibration import refusing_undecomposable
from wasi.methods.perplexity_table import Candidate, LayerTable
from wasi.models.modes import eval_mode


def measure_perplexities(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    batch: tuple[Tensor, Tensor],
    epsilons: Sequence[float],
    batch_mode: str,
) -> list[LayerTable]:
    """Return one table per layer, from one forward and backward pass of the cross-entropy on `batch`.

    Each layer's input is held until its output gradient is known, as in training, and weight gradients are formed one
    layer at a time. Model, parameters and random state are unchanged. Layers that are never called are left out.

    Args:
        batch: images and labels.
        epsilons: the thresholds of explained variance.
        batch_mode: `whole` keeps the batch mode at full rank; `cut` gives it a rank like the other modes.

    Raises:
        UserError: a layer's input is zero or not finite.
    """
    probes = {id(layer): _Probe(name, layer, epsilons, batch_mode) for name, layer in reversed([*layers.items()])}
    device = next(model.parameters()).device
    images = batch[0].to(device).detach().requires_grad_()
    with eval_mode(model), torch.enable_grad(), ExitStack() as stack:
        for probe in probes.values():
            stack.enter_context(probe.layer.register_forward_hook(probe.see))
        # With respect to the images alone: no parameter's gradient is formed, but every layer's output gets one.
        torch.autograd.grad(F.cross_entropy(model(images), batch[1].to(device)), images)
    return [probe.table() for probe in reversed(probes.values()) if probe.shapes]


class _Probe:
    """Hooks of one layer: a Tucker decomposition per call, and the gradient errors summed over the calls."""

    def __init__(self, name: str, layer: nn.Linear, epsilons: Sequence[float], batch_mode: str):
        self.batch_mode = batch_mode
        self.name, self.layer, self.epsilons = name, layer, sorted(epsilons)
        self.shapes: list[tuple[int, ...]] = []
        self.ranks: list[list[tuple[int, ...]]] = []  # per call, per epsilon
        self._inputs: dict[int, Tensor] = {}
        self._errors: list[Tensor] | None = None  # per epsilon, O x I, while calls are being summed
        self._norms = [0.0] * len(epsilons)

    def see(self, layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Forward hook: hold the input until the hook on the output gets its gradient.

        The output is a copy, because a change in place, as by `ReLU(inplace=True)`, would drop the hook.
        """
        call, x = len(self.shapes), args[0].detach()
        self.shapes.append(tuple(x.shape))
        self.ranks.append([])
        self._inputs[call] = x
        output = output.clone()
        output.register_hook(lambda grad: self._measure(call, grad))
        return output

    def _measure(self, call: int, grad: Tensor) -> None:
        x = self._inputs.pop(call)
        spectrum = self._decompose(call, x)
        exact = grad.reshape(-1, grad.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
        errors = (tucker.weight_gradient(grad, *spectrum.compress(ranks)).sub_(exact) for ranks in self.ranks[call])
        if len(self.shapes) == 1:
            self._norms = [error.norm().item() for error in errors]
        else:
            before = self._errors or [torch.zeros_like(exact)] * len(self.epsilons)
            self._errors = [old + error for old, error in zip(before, errors, strict=True)]
            self._norms = [error.norm().item() for error in self._errors]

    def _decompose(self, call: int, x: Tensor) -> "_Spectrum":
        with refusing_undecomposable(self.name):
            spectrum = _Spectrum(x, self.epsilons[-1], self.batch_mode)
            self.ranks[call] = [spectrum.ranks(epsilon) for epsilon in self.epsilons]
        return spectrum

    def table(self) -> LayerTable:
        """Return the layer's table; to be called once, after the backward pass."""
        for call, x in self._inputs.items():  # no gradient arrived: the loss does not depend on this call
            self._decompose(call, x)
        self._inputs.clear()
        self._errors = None
        candidates = []
        for i, epsilon in enumerate(self.epsilons):
            ranks = [of_call[i] for of_call in self.ranks]
            memory = sum(map(tucker.stored_elements, self.shapes, ranks))
            candidates.append(Candidate(epsilon, ranks, self._norms[i], memory))
        return LayerTable(self.name, self.shapes, candidates)


class _Spectrum:
    """Singular vectors and squared singular values of the unfoldings of `x`, for all thresholds up to `highest`.

    Those of the batch mode are left out where it is kept whole.
    """

    def __init__(self, x: Tensor, highest: float, batch_mode: str):
        self.x = x
        self.total = torch.linalg.vector_norm(x, dtype=torch.float64).square()
        self.bases: list[Tensor] = []  # of the modes after the batch
        self.energies: list[Tensor | None] = [mode_spectrum(x, 0, highest)[1] if batch_mode == "cut" else None]
        for mode in range(1, x.dim()):
            basis, energies = mode_spectrum(x, mode, highest)
            self.bases.append(basis)
            self.energies.append(energies)

    def ranks(self, epsilon: float) -> tuple[int, ...]:
        """Return one rank per mode, as `rank.activation_selection=epsilon` chooses them."""
        return tuple(
            d if epsilon >= 1 or e is None else explained_rank(e, epsilon, self.total)
            for e, d in zip(self.energies, self.x.shape, strict=True)
        )

    def compress(self, ranks: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Return core and factors of `x`, as `TuckerState.compress` gives them in a layer's first training step."""
        sides = zip(self.bases, ranks[1:], self.x.shape[1:], strict=True)
        bases = [basis[:, :rank] if rank < d else None for basis, rank, d in sides]
        core, factors, _ = tucker.compress(self.x, bases, ranks[0], wanted=[False] * len(bases))
        return core, factors
