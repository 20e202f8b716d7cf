"""Patch embeddings as one product: a convolution whose patches do not overlap is nothing else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class PatchConv2d(nn.Conv2d):
    """`nn.Conv2d` of patches side by side, `[B, C, H, W]` to `[B, O, H / p, W / q]`, computed by BLAS on a CPU.

    The result lies in memory as `[B, H / p, W / q, O]`, the order that transformers want tokens in. For the
    backward pass images are kept, not patches, which are copied together once more. A trace sees the convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.kernel_size
        whole = x.dim() == 4 and x.shape[2] % p == x.shape[3] % q == 0
        if not whole or x.device.type != "cpu" or torch.jit.is_tracing():
            return super().forward(x)
        patches = _patches(x, p, q)
        ours = patches.data_ptr()

        def pack(kept: Tensor) -> Tensor | None:
            return None if kept.data_ptr() == ours else kept

        def unpack(kept: Tensor | None) -> Tensor:
            return _patches(x.detach(), p, q) if kept is None else kept

        with saved_tensors_hooks(pack, unpack):
            out = F.linear(patches, self.weight.flatten(1), self.bias)
        return out.view(len(x), x.shape[2] // p, x.shape[3] // q, -1).permute(0, 3, 1, 2)


def _patches(x: Tensor, p: int, q: int) -> Tensor:
    """`[B, C, H, W]` as rows, `(B H/p W/q) x (C p q)`."""
    batch, channels, height, width = x.shape
    apart = x.reshape(batch, channels, height // p, p, width // q, q)
    return apart.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * p * q)


def multiply_patches(model: nn.Module) -> nn.Module:
    """Put, in place, `PatchConv2d` with the very parameters for every convolution of patches side by side."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_of_patches(child):
                setattr(parent, name, _of_patches(child))
    return model


def _is_of_patches(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.stride == module.kernel_size
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def _of_patches(conv: nn.Conv2d) -> PatchConv2d:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
    made = PatchConv2d(*sizes, bias=conv.bias is not None, device="meta")
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)
