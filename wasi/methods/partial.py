"""Fine-tuning of a part of the parameters: the head, the biases, or the last blocks."""

from dataclasses import dataclass

from torch import nn

from wasi.errors import UserError
from wasi.methods.method import Method
from wasi.methods.scope import freeze_rest
from wasi.models.structure import find_blocks, head_module, linear_sites


@dataclass
class LinearProbe(Method):
    """Trains the head alone. `scope` only says which layers the paper's memory accounting counts."""

    appearance = {"linear_probe": {"order": 7, "colour": "#7F7F7F", "marker": "X", "about": "the head alone trains"}}
    trains_matrices = False

    name: str
    scope: str

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linear_sites(model, self.scope)  # raises UserError for a scope that this model does not have
        freeze_rest(model)
        return model


@dataclass
class BitFit(LinearProbe):
    """Trains the head and all biases, including those of norms and of the patch embedding (arXiv 2106.10199)."""

    appearance = {
        "bitfit": {"order": 8, "colour": "#8C6D31", "marker": "h", "about": "biases and the head train"}
    }

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        model = super().apply(model, calibration)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # also torchvision's `in_proj_bias` and timm's `q_bias`
                parameter.requires_grad_(True)
        return model


@dataclass
class FreezeFirst(Method):
    """Trains everything but the first `frozen_blocks` blocks (None: half of them) and what comes before them.

    Patch embedding, class token and position embedding are frozen even with 0 blocks. As no parameter below trains,
    the backward pass ends at the first trained block, and the frozen ones save no activations.
    """

    appearance = {
        "freeze_first": {"order": 9, "colour": "#F0E442", "marker": "<", "about": "the first blocks are frozen"}
    }

    name: str
    scope: str
    frozen_blocks: int | None

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        """Freeze the first blocks of `model` in place, and return it.

        Raises:
            UserError: `frozen_blocks` is above the model's number of blocks.
        """
        linear_sites(model, self.scope)  # raises UserError for a scope that this model does not have
        blocks = [f"{name}." for name in find_blocks(model)]
        count = len(blocks) // 2 if self.frozen_blocks is None else self.frozen_blocks
        if count > len(blocks):
            allowed = f"from 0 to {len(blocks)}, the number of blocks of this model, or null"
            raise UserError("method.frozen_blocks", self.frozen_blocks, allowed)
        head = {id(p) for p in head_module(model).parameters()}
        names = [name for name, _ in model.named_parameters()]  # registration order is that of the forward pass
        if count:
            frozen = tuple(blocks[:count])
            end = 1 + max(index for index, name in enumerate(names) if name.startswith(frozen))
        else:
            end = next(index for index, name in enumerate(names) if name.startswith(blocks[0]))
        for name in names[:end]:
            parameter = model.get_parameter(name)
            if id(parameter) not in head:
                parameter.requires_grad_(False)
        return model
