"""Dropout: exact gradients, the promised rate, and the numbers that the same seed gives, drawn one by one."""

import pytest
import torch

from minibert.dropout import Dropout, byte_dropout, dropout


def test_bytes_below_the_mark_are_dropped_and_the_rest_scaled():
    x = torch.randn(3, 7, 5)  # 105 values: not a multiple of the 8 that one draw decides on
    torch.manual_seed(1)
    y = byte_dropout(x, 64)
    torch.manual_seed(1)
    draws = [int(torch.empty((), dtype=torch.int64).random_(-(2**63), None)) for _ in range(14)]
    luck = b"".join(draw.to_bytes(8, "little", signed=True) for draw in draws)[:105]
    signed = torch.tensor([byte - 256 if byte > 127 else byte for byte in luck]).view(3, 7, 5)
    kept = signed >= 64 - 128  # the 64 lowest of the 256 values that a signed byte has
    assert 0 < kept.sum() < 105
    torch.testing.assert_close(y, x * kept / 0.75)


@pytest.mark.parametrize("dropped", [1, 26, 128, 255])
def test_gradient(dropped):
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def same_luck(x):
        torch.manual_seed(5)
        return byte_dropout(x, dropped)

    assert torch.autograd.gradcheck(same_luck, (x,))


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rate_and_mean(p, dtype):
    n = 2**20
    y = dropout(torch.ones(n, dtype=dtype), p)
    share = round(256 * p) / 256
    sigma = (share * (1 - share) / n) ** 0.5
    assert (y == 0).double().mean().item() == pytest.approx(share, abs=5 * sigma)
    assert y.max().item() == pytest.approx(1 / (1 - share), rel=4e-3)
    assert y.unique().numel() == 2


def test_neighbours_are_dropped_independently():
    kept = dropout(torch.ones(2**20), 0.5) > 0
    for distance in (1, 8, 64):
        both = (kept[:-distance] & kept[distance:]).double().mean().item()
        assert both == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 2**20) ** 0.5)


def test_any_rate_above_0_drops_and_below_1_keeps():
    assert dropout(torch.ones(2**16), 1e-6).min() == 0
    assert dropout(torch.ones(2**16), 1 - 1e-6).max() > 0


def test_transposed_values_keep_their_places():
    x = torch.randn(6, 4).T
    y = dropout(x, 0.5)
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * x[kept])


def test_only_while_training():
    x, layer = torch.ones(100), Dropout(0.9)
    assert (layer.train()(x) == 0).any()
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
