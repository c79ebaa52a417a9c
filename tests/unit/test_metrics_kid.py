"""KID against a plain double loop, and its blocks."""

import math

import pytest
import torch
from torch import Tensor

from vaevq.errors import UserError
from vaevq.metrics.kid import BlockwiseKernelDistance, polynomial_mmd2


def samples(count: int, dim: int = 12, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def plain_mmd2(x: Tensor, y: Tensor) -> float:
    """Eq. 4 of Bińkowski et al. as it is printed: sums over pairs, one by one."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(x[i], y[j]) for i in range(m) for j in range(n)) / (m * n)
    return xx + yy - 2 * xy


def streamed(x: Tensor, y: Tensor, block: int, batch: int) -> BlockwiseKernelDistance:
    distance = BlockwiseKernelDistance(block, len(x), len(y))
    for start in range(0, max(len(x), len(y)), batch):
        stop = start + batch
        if start < len(x):
            distance.update("evaluated", torch.arange(start, min(stop, len(x))), x[start:stop])
        if start < len(y):
            distance.update("reference", torch.arange(start, min(stop, len(y))), y[start:stop])
    return distance


@pytest.mark.parametrize(("m", "n"), [(2, 2), (9, 14)])
def test_mmd2_equals_the_double_loop(m: int, n: int) -> None:
    x, y = samples(m), samples(n, seed=1, shift=0.4)
    assert polynomial_mmd2(x, y) == pytest.approx(plain_mmd2(x, y), rel=1e-12)


def test_mmd2_is_unbiased() -> None:
    draws = torch.tensor([polynomial_mmd2(samples(8, 4, seed=i), samples(8, 4, seed=1000 + i)) for i in range(500)])
    assert abs(float(draws.mean())) < 4 * float(draws.std()) / math.sqrt(500)
    assert (draws < 0).any(), "an unbiased estimate of zero has to be negative at times"


@pytest.mark.parametrize("batch", [1, 7, 10, 64])
def test_blocks_equal_their_twins_whatever_the_batch(batch: int) -> None:
    x, y = samples(47), samples(47, seed=1, shift=0.3)
    result = streamed(x, y, block=10, batch=batch).result()
    plain = torch.tensor([plain_mmd2(x[i : i + 10], y[i : i + 10]) for i in range(0, 40, 10)], dtype=torch.float64)
    assert result.blocks == 4
    assert result.value == pytest.approx(float(plain.mean()), rel=1e-11)
    assert result.standard_error == pytest.approx(float(plain.std()) / 2, rel=1e-11)


def test_the_trailing_images_are_left_out_where_there_is_a_full_block() -> None:
    x, y = samples(25), samples(25, seed=1)
    distance = streamed(x, y, block=10, batch=4)
    assert (distance.blocks, distance.left_out) == (2, 5)
    assert distance.result() == streamed(x[:20], y[:20], block=10, batch=4).result()


def test_fewer_images_than_a_block_make_one_block_of_all() -> None:
    x, y = samples(7), samples(7, seed=1)
    distance = streamed(x, y, block=10, batch=3)
    result = distance.result()
    assert (result.blocks, result.standard_error, distance.left_out) == (1, None, 0)
    assert result.value == pytest.approx(plain_mmd2(x, y), rel=1e-11)


def test_a_reference_of_another_size_is_compared_block_by_block() -> None:
    x, y = samples(23), samples(35, seed=1)
    result = streamed(x, y, block=10, batch=6).result()
    expected = (plain_mmd2(x[:10], y[:10]) + plain_mmd2(x[10:20], y[10:20])) / 2
    assert (result.blocks, result.value) == (2, pytest.approx(expected, rel=1e-11))


def test_missing_images_leave_their_block_smaller() -> None:
    x, y = samples(20), samples(20, seed=1)
    readable = torch.tensor([i for i in range(20) if i not in (3, 4, 17)])
    distance = BlockwiseKernelDistance(10, 20, 20)
    distance.update("evaluated", readable, x[readable])
    distance.update("reference", torch.arange(20), y)
    first, second = readable[readable < 10], readable[readable >= 10]
    expected = (plain_mmd2(x[first], y[:10]) + plain_mmd2(x[second], y[10:])) / 2
    assert distance.result().value == pytest.approx(expected, rel=1e-11)


def test_no_more_than_the_open_blocks_are_held() -> None:
    x = samples(100)
    distance = BlockwiseKernelDistance(10, 100, 100)
    for start in range(0, 100, 4):
        positions = torch.arange(start, start + 4)
        for side in ("evaluated", "reference"):
            distance.update(side, positions, x[positions])
        held = [len(part) for blocks in distance._open.values() for parts in blocks.values() for part in parts]
        assert sum(held) <= 2 * (10 + 4)


def test_too_few_readable_images_are_the_users_mistake() -> None:
    distance = BlockwiseKernelDistance(10, 1, 1)
    distance.update("evaluated", torch.tensor([0]), samples(1))
    distance.update("reference", torch.tensor([0]), samples(1))
    with pytest.raises(UserError, match="KID needs at least 2 readable images"):
        distance.result()
