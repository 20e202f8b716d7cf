"""The base class of methods: a method subclasses it, implements `apply`, and has a `conf/method/NAME.yaml`."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer


class Method:
    """Base class of all methods.

    A subclass implements `apply`. Everything else is optional:

    - `appearance`: how reports show the method, by the name of its YAML, see `wasi.config.declared.Appearance`;
    - `worth_tuning`: by name, the options that `tune.declared=true` tunes beside learning rate and optimizer;
    - `null_means`: by name, the options whose null stands for a value, so that null and that value are the same run;
    - `trains_matrices`: whether other matrices than the head's train, which estimates of memory depend on;
    - `merge`: whether inference is measured with adapters merged into the weights, as one would deploy the model;
    - `parameter_groups`, `wrap_step`: changes to the optimizer's parameter groups and to the training step;
    - `artifacts`: file name -> JSON content to be written beside the result, such as `perplexity.json`; set by `apply`;
    - `step_parts`: which callables of the method belong to which part of a step in a breakdown of time.

    The subspace work around an optimizer step needs no declaration: it follows from the layers (`LowRankLayer`).
    """

    appearance: ClassVar[dict[str, dict[str, Any]]] = {}
    worth_tuning: ClassVar[dict[str, dict[str, list[Any]]]] = {}
    null_means: ClassVar[dict[str, dict[str, Any]]] = {}
    trains_matrices: bool = True
    merge: bool = True
    artifacts: Mapping[str, Any] = MappingProxyType({})

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        """Return the model to train, made from a pretrained one, which may be modified in place.

        Afterwards, the parameters with `requires_grad` are those that train.

        Args:
            calibration: an iterable of normalised training batches (images, labels), see `Calibration`.
        """
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module, defaults: dict[str, Any]) -> list[dict[str, Any]]:
        """Return optimizer parameter groups for parameters with options of their own; the others keep the defaults.

        LoRA+, for example, would return `[{"params": [every B], "lr": 1.6}]`.

        >>> Method().parameter_groups(nn.Linear(2, 2), {"lr": 0.1})
        []

        Args:
            defaults: the optimizer's default options.
        """
        return []

    def wrap_step(self, step):
        """Return the `TrainStep` to use: the given one, perhaps with hooks on `step.optimizer` or `step.penalties`.

        `step.total_steps` is None until a training begins.
        """
        return step

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        """Return part of a step (`decomposition`, `factor_algebra`) -> its callables as (owner, attribute name)."""
        return {}

    def merged(self, layer: nn.Module) -> nn.Module | None:
        """Return a layer equal to `layer` in inference, with its adapters merged; None for a layer without adapters.

        None is returned with `merge=false`, too. The result shares no memory with `layer`.
        """
        return layer.merged() if self.merge and isinstance(layer, LowRankLayer) else None

    @contextmanager
    def deployed(self, model: nn.Module) -> Iterator[None]:
        """Within this context, `model` is as one would deploy it, for measuring inference.

        Each layer with adapters is replaced by its merged form (`merged`), and layers lack what serves training alone
        (`LowRankLayer.training_only`). Afterwards the original layers are back, unchanged.

        Merged weights are new tensors: adding `B A` in place and subtracting it again would round twice and change the
        training that follows. So these weights exist twice within the context. The measured inference memory does not
        include the originals, which are no part of the model meanwhile and on a GPU are moved to host memory.
        Evaluation during training does not need this context, as unmerged outputs are equal up to rounding.
        """
        children = ((parent, *entry) for parent in model.modules() for entry in parent._modules.items())
        replaced = [(parent, name, child) for parent, name, child in children if child is not None]
        forms = {child: self.merged(child) for child in dict.fromkeys(child for *_, child in replaced)}
        replaced = [(parent, name, child) for parent, name, child in replaced if forms.get(child) is not None]
        for parent, name, child in replaced:
            setattr(parent, name, forms[child])
        layers = [layer for layer in model.modules() if isinstance(layer, LowRankLayer)]
        found = [(layer, name, getattr(layer, name)) for layer in layers for name in layer.training_only]
        training_state = [(layer, name, value) for layer, name, value in found if value is not None]
        aside: list[tuple[Tensor, torch.device]] = []
        try:
            for layer, name, _ in training_state:
                setattr(layer, name, None)
            for tensor in _only_in((value for *_, value in [*replaced, *training_state]), model):
                aside.append((tensor, tensor.device))
                tensor.data = tensor.data.cpu()
            yield
        finally:
            for tensor, device in aside:
                tensor.data = tensor.data.to(device)
            for owner, name, value in [*training_state, *replaced]:
                setattr(owner, name, value)


def _only_in(parts: Iterable[nn.Module | Tensor], model: nn.Module) -> list[Tensor]:
    """Return the tensors of `parts` that are not part of `model`, each once."""
    there = {id(tensor) for tensor in _tensors(model)}
    return list({id(t): t for part in parts for t in _tensors(part) if id(t) not in there}.values())


def _tensors(part: nn.Module | Tensor) -> Iterable[Tensor]:
    return [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]
