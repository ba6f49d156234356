"""torch.compile without graph breaks, torch.export, and gradients through packed layers."""

from __future__ import annotations

import pytest
import torch
from lowbit.modules import QuantizedLinear, TiedEmbedding, make_linear
from lowbit.schemes import BinaryMoS, BipolarInt
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def test_compile(layer: QuantizedLinear, x: Tensor) -> None:
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


def test_export(layer: QuantizedLinear, x: Tensor) -> None:
    tokens = torch.export.Dim("tokens", min=2, max=64)
    flat = x.flatten(0, 1)
    program = torch.export.export(layer, (flat,), dynamic_shapes=({0: tokens},))
    more = torch.cat([flat, flat])
    torch.testing.assert_close(program.module()(more), layer(more), rtol=1e-5, atol=1e-5)


def test_compile_a_tied_model_and_change_active_bits(x: Tensor) -> None:
    head = make_linear(BipolarInt(4, group_size=32).quantize(torch.randn(70, 100)))
    model = nn.Sequential(TiedEmbedding(head, dtype=torch.float32), nn.ReLU(), head)
    compiled = torch.compile(model, fullgraph=True)
    ids = torch.tensor([[0, 69, 64]])
    torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-4)
    head.active_bits = 2
    torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_compiled_rows(layer: QuantizedLinear) -> None:
    embedding = TiedEmbedding(layer, dtype=torch.float32)
    ids = torch.tensor([[3, 69, 3], [0, 64, 1]])
    compiled = torch.compile(embedding, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), embedding(ids))


def test_input_gradient_is_the_exact_layer_s(layer: QuantizedLinear, x: Tensor) -> None:
    layer.precision = "exact"
    inputs = x.clone().requires_grad_()
    other = x.clone().requires_grad_()
    direction = torch.randn(2, 3, 70)
    (layer(inputs) * direction).sum().backward()
    (layer.packed().linear(other) * direction).sum().backward()
    torch.testing.assert_close(inputs.grad, other.grad, rtol=1e-3, atol=1e-3)


def test_bias_gradient(layer: QuantizedLinear, x: Tensor) -> None:
    layer.bias.requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((70,), 6.0))


class LoRA(nn.Module):
    """A packed layer with a trained low-rank correction."""

    def __init__(self, base: QuantizedLinear, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("scheme", [BinaryMoS(experts=2), BipolarInt(2, group_size=32)], ids=lambda s: s.name)
def test_training_on_top_of_packed_layers(scheme, backend: str) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 16))
    student = nn.Sequential(
        *(
            LoRA(make_linear(scheme.quantize(part.weight.detach()), part.bias.detach(), backend=backend))
            if isinstance(part, nn.Linear)
            else part
            for part in teacher
        )
    )
    packed = {name: buffer.clone() for name, buffer in student.named_buffers()}
    optimizer = torch.optim.Adam((p for p in student.parameters() if p.requires_grad), lr=1e-2)
    x = torch.randn(64, 32)
    target = teacher(x).detach()
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(student(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.equal(buffer, packed[name]) for name, buffer in student.named_buffers())
