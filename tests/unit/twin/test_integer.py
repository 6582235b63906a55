"""Sums of products are those of int32 accumulators: exact beyond 2^24, wrapped beyond 2^31."""

import numpy as np
import pytest
import torch

from resq_deploy.twin.integer import Reach, centred, largest_sum, product
from resq_deploy.twin.node import as_tensor
from resq_deploy.twin.rounding import converted, tamed, to_codes

UINT8 = (0.0, 255.0)


def matmul(left, right, bias):
    return left @ right if bias is None else left @ right + bias


@pytest.mark.parametrize("terms", [100, 600, 5000])
@pytest.mark.parametrize("bias", [None, 1000, 2**31 - 1], ids=["no bias", "small", "wraps"])
def test_products_are_those_of_int32(terms, bias):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (4, terms)), rng.integers(-128, 128, (terms, 3))
    left[0], right[:, 0] = 255, 127  # the largest sum there can be
    added = 0 if bias is None else bias
    expected = (left @ right + added).astype(np.int32)
    zero_point = torch.tensor(0.0)
    total = product(
        matmul,
        centred(torch.from_numpy(left).float(), zero_point),
        torch.from_numpy(right).float(),
        None if bias is None else as_tensor(np.full(3, bias, np.int32)),
        reach=Reach.of(zero_point, UINT8),
        axes=(-1, -2),
        summed=(-2,),
    )
    np.testing.assert_array_equal(total.numpy().astype(np.int64), expected)
    assert (total.dtype == torch.float32) == (terms == 100 and bias != 2**31 - 1)


def test_the_bound_holds_for_partial_sums():
    right = torch.tensor([[3.0], [-5.0], [2.0]])
    assert largest_sum(Reach.of(torch.tensor(0.0), UINT8), right, (-2,)) == 255 * 5
    assert largest_sum(Reach.of(torch.tensor(128.0), UINT8), right, (-2,)) == 127 * 5 + 128 * 5
    assert largest_sum(Reach.of(torch.tensor(255.0), UINT8), right, (-2,)) == 255 * 5


@pytest.mark.parametrize(("clip_gradient", "expected"), [(True, [0, 1, 1, 1, 0]), (False, [1, 1, 1, 1, 1])])
def test_rounding_passes_gradients_straight_through(clip_gradient, expected):
    values = torch.tensor([-4.0, -2.5, 0.5, 1.5, 251.2], requires_grad=True)
    zero_point = torch.tensor(3.0, requires_grad=True)
    codes = to_codes(values, zero_point, (0.0, 253.0), clip_gradient=clip_gradient)
    assert codes.tolist() == [0, 1, 3, 5, 253]
    codes.sum().backward()
    assert values.grad.tolist() == expected
    assert zero_point.grad.item() == sum(expected)


def test_a_zero_point_a_channel():
    values = torch.zeros(2, 2, requires_grad=True)
    zero_point = torch.tensor([[1.0], [9.0]], requires_grad=True)
    codes = to_codes(values, zero_point, (0.0, 7.0), clip_gradient=True)
    assert codes.tolist() == [[1, 1], [7, 7]]
    codes.sum().backward()
    assert zero_point.grad.tolist() == [[2], [0]]


def test_what_is_no_number_becomes_the_smallest_code():
    values = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert to_codes(tamed(values), torch.tensor(0.0), UINT8, clip_gradient=True).tolist() == [0, 255, 0]
    assert converted(torch.tensor([torch.nan, 2.0**31, 7.0])).tolist() == [-torch.inf, -torch.inf, 7.0]


def test_tensors_are_held_exactly():
    wide = as_tensor(np.array([2**31 - 1, -(2**31)], np.int32))
    assert wide.dtype == torch.float64
    assert wide.tolist() == [2**31 - 1, -(2**31)]
    assert as_tensor(np.arange(256, dtype=np.uint8)).dtype == torch.float32
    assert as_tensor(np.array([True])).dtype == torch.bool
    assert as_tensor(np.array([2**62 + 1])).tolist() == [2**62 + 1]
