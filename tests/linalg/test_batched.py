"""Square matrices computed in padded batches, against one by one."""

import pytest
import torch

from wasi.linalg import batched


def scaled(square):
    return square @ square + square


@pytest.mark.parametrize(
    ("at_once", "batches"),
    [(2**21, [(2, 9), (3, 4), (1, 2)]), (100, [(1, 9), (1, 8), (3, 4), (1, 2)])],  # (matrices, padded size)
)
def test_similar_sizes_are_one_batch_of_limited_size(at_once, batches, monkeypatch):
    monkeypatch.setattr(batched, "_AT_ONCE", at_once)
    stacked, seen = batched.stacked, []
    monkeypatch.setattr(batched, "stacked", lambda *args: seen.append(stacked(*args)) or seen[-1])
    squares = [torch.randn(n, n, dtype=torch.float64) for n in (3, 8, 2, 4, 9, 3)]
    found = dict(batched.in_padded_batches(scaled, squares))
    assert [(len(batch), batch.shape[-1]) for batch in seen] == batches
    torch.testing.assert_close([found[number] for number in range(6)], [scaled(square) for square in squares])
    assert not list(batched.in_padded_batches(scaled, []))


def test_padding_on_the_diagonal():
    together = batched.stacked([torch.full((1, 1), 5.0), torch.full((2, 2), 7.0)], diagonal=1.0)
    assert together.tolist() == [[[5, 0], [0, 1]], [[7, 7], [7, 7]]]
