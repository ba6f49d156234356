"""What was trained through straight-through operators, packed: the same values, then the same layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowbit.errors import FormatError
from lowbit.formats import PackedWeight
from lowbit.modules import make_linear
from lowbit.ops import straight_through as ste
from lowbit.quantizers import trained
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

N, K, TOKENS = 24, 70, 128


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Parameters = dict[str, nn.Parameter]
Case = tuple[Parameters, Callable[[Tensor, Parameters], Tensor], Callable[[Parameters], PackedWeight]]


def parameters(**tensors: Tensor) -> Parameters:
    return {name: nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}


def case(name: str, weight: Tensor) -> Case:
    """Parameters at their start, the layer in training, and how it is packed."""
    if name == "bipolar":
        start = parameters(weight=weight, scales=weight[:, ::32].abs().mean(1, keepdim=True).repeat(1, 3) / 2)
        return (
            start,
            lambda x, p: linear(x, ste.bipolar(**p, bits=2, group_size=32)),
            lambda p: trained.pack_planes(**p, bits=2, group_size=32),
        )
    if name == "scalar codebook":
        return (
            parameters(weight=weight, tables=torch.tensor([1.0, -0.1, 0.1, -1.0]).repeat(N, 1)),
            lambda x, p: linear(x, ste.scalar_codebook(**p)),
            lambda p: trained.pack_scalars(**p),
        )
    if name == "grouped signs":
        return (
            parameters(weight=weight, scales=weight.abs().mean(1, keepdim=True)),
            lambda x, p: linear(x, ste.sign(p["weight"]) * ste.stored(p["scales"])),
            lambda p: trained.pack_signs(**p),
        )
    scales = {"in_scales": torch.ones(3, K), "out_scales": weight.abs().mean(1).repeat(3, 1)}
    if name == "OneBit":
        return (
            parameters(weight=weight, **{key: own[:1] for key, own in scales.items()}),
            lambda x, p: ste.signs_linear(x, **p, gradient="tanh"),
            lambda p: trained.pack_signs(**p),
        )
    return (
        parameters(weight=weight, router=normal(3, K, seed=3) / 8, **scales),
        lambda x, p: ste.signs_linear(x, **p),
        lambda p: trained.pack_signs(**p),
    )


@pytest.mark.parametrize("name", ["bipolar", "scalar codebook", "grouped signs", "OneBit", "BinaryMoS"])
def test_a_trained_layer_is_the_packed_one(name: str) -> None:
    teacher, x = normal(N, K, seed=0), normal(TOKENS, K, seed=1)
    values, layer, pack = case(name, normal(N, K, seed=5) / 2)
    optimizer = torch.optim.Adam(values.values(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = mse_loss(layer(x, values), linear(x, teacher))
        optimizer.zero_grad()
        loss.backward()
        assert all(own.grad is not None and own.grad.abs().sum() > 0 for own in values.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    packed = pack(values)
    expected = layer(x, values).detach()
    assert torch.equal(packed.linear(x), expected)
    if name in ("bipolar", "scalar codebook"):
        assert torch.equal(linear(x, packed.dequantize()), expected)
    module = make_linear(packed, dtype=torch.float32, precision="exact")
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


def test_one_bit_activations() -> None:
    """BiT: weights and activations of one bit, in training and as exact integers."""
    x, weight = normal(4, K, seed=1), normal(N, K, seed=0)
    scales, scale, shift = weight.abs().mean(1, keepdim=True), torch.tensor(0.7), normal(K, seed=2) / 4
    weights = ste.bipolar(weight, scales, 1)
    packed = trained.pack_planes(weight, scales, 1)
    signed = ste.elastic(x, scale, shift)
    torch.testing.assert_close(packed.linear(signed, activation_bits=1), linear(signed, weights))
    unsigned = ste.elastic(x, scale, shift, unsigned=True)
    bias = scale / 2 * weights.sum(1)
    torch.testing.assert_close(
        packed.linear(unsigned - scale / 2, bias, activation_bits=1), linear(unsigned, weights)
    )


@pytest.mark.parametrize(
    "pack",
    [
        lambda w: trained.pack_signs(w, in_scales=w[:1]),
        lambda w: trained.pack_signs(w, scales=w[:, :2]),
        lambda w: trained.pack_signs(w * torch.nan, scales=w[:, :1]),
        lambda w: trained.pack_planes(w, w[:, :2], 4),
        lambda w: trained.pack_planes(w, w[:, :1], 0),
        lambda w: trained.pack_planes(w, w[:, :1], 4, group_size=7),
        lambda w: trained.pack_planes(w, w[:, :1] * 1e9, 4),
        lambda w: trained.pack_scalars(w, w[:, :1]),
        lambda w: trained.pack_scalars(w, w[:, :5]),
        lambda w: trained.pack_scalars(w, w[:, :2] * torch.inf),
    ],
)
def test_wrong_arguments(pack: Callable[[Tensor], PackedWeight]) -> None:
    with pytest.raises(FormatError):
        pack(normal(N, K, seed=0))


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})  # it compares by itself
