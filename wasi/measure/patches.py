"""Observe what torch has no hooks for, by replacing methods; each context restores them at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.hooks import RemovableHandle


def run_first(handle: RemovableHandle) -> RemovableHandle:
    """Move a hook before the others of its tensor, one of which may step and free the gradient; return its handle."""
    hooks = handle.hooks_dict_ref() or {}
    for key in [key for key in hooks if key != handle.id]:
        hooks[key] = hooks.pop(key)
    return handle


class _NotedHook:
    """A proxy of a pack hook that passes the hook's result, which is what is kept, through `saved`."""

    def __init__(self, hook: Callable[[Tensor], object], saved: Callable[[object], object]):
        self._hook, self._saved = hook, saved

    def __call__(self, tensor: Tensor) -> object:
        try:
            kept = self._hook(tensor)
        except Exception:  # checkpointing ends a recomputation by an exception, at the last tensor that it needs
            self._saved(tensor)
            raise
        return self._saved(kept)

    def __getattr__(self, name: str) -> object:
        return getattr(self._hook, name)


@contextmanager
def every_saving_hook(saved: Callable[[object], object]) -> Iterator[None]:
    """Pass whatever other saved-tensor hooks keep (checkpointing, compression) through `saved` as well.

    It covers hooks entered within this context. `saved` gets the packed object and returns the one to keep.
    """
    original = saved_tensors_hooks.__enter__

    def enter(hooks: saved_tensors_hooks) -> None:
        inner, hooks.pack_hook = hooks.pack_hook, _NotedHook(hooks.pack_hook, saved)
        try:
            return original(hooks)
        finally:
            hooks.pack_hook = inner

    saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]  # there is no hook for it
    try:
        yield
    finally:
        saved_tensors_hooks.__enter__ = original  # type: ignore[method-assign]  # put back


@contextmanager
def storage_resizes(resized: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Call `resized(storage)` after every `UntypedStorage.resize_`, which is no operator that a dispatch mode sees."""
    original = torch.UntypedStorage.resize_

    def resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        result = original(storage, size)
        resized(storage)
        return result

    torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]  # there is no hook for it
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]  # put back
