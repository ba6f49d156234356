"""Embeddings on packed rows: alone, and tied to a head."""

from __future__ import annotations

import copy

import pytest
import torch
from lowbit.errors import ValueRangeError
from lowbit.modules import PackedEmbedding, RowScale, TiedEmbedding, make_linear
from lowbit.schemes import Scheme
from torch import nn

IDS = torch.tensor([[0, 69, 64], [63, 5, 5]])


@pytest.fixture
def head(layer):
    return layer


def test_rows_of_the_head(head, backend: str) -> None:
    embedding = TiedEmbedding(head, dtype=torch.float32)
    expected = head.dequantize()
    rows = embedding(IDS)
    assert rows.shape == (2, 3, 100)
    assert torch.equal(rows, expected[IDS])
    assert torch.equal(embedding.dequantize(), expected)
    assert embedding(IDS[:0]).shape == (0, 3, 100)
    assert embedding(IDS.int()).dtype == torch.float32
    assert (embedding.num_embeddings, embedding.embedding_dim) == (70, 100)


def test_own_rows(head, scheme: Scheme, backend: str) -> None:
    embedding = PackedEmbedding(head.packed(), dtype=torch.bfloat16, scheme=scheme, backend=backend)
    rows = embedding(IDS)
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, head.dequantize().bfloat16()[IDS])
    assert embedding.state_dict().keys() == head.canonical_tensors().keys()
    assert "70, 100" in repr(embedding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_of_the_rows(head, dtype: torch.dtype) -> None:
    rows = head.dequantize().to(dtype)[IDS]
    rounded = TiedEmbedding(head, dtype=dtype, row_scale=RowScale(25.298, rounded=True))
    assert torch.equal(rounded(IDS), rows * torch.tensor(25.298).to(dtype))
    plain = TiedEmbedding(head, dtype=dtype, row_scale=RowScale(25.298))
    assert torch.equal(plain(IDS), rows * 25.298)


class Tied(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.embed = TiedEmbedding(head, dtype=torch.float32)
        self.head = head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids))


def test_the_weight_is_the_head_s_alone(head) -> None:
    model = Tied(head)
    assert not [name for name in model.state_dict() if name.startswith("embed")]
    assert model.embed.weight is head.get_buffer("weight")
    assert list(model.embed.buffers()) == []
    assert "rows of layer" in repr(model)


def test_copies_and_casts_stay_tied(head) -> None:
    other = copy.deepcopy(Tied(head))
    assert other.embed.head is other.head
    assert other.embed.head is not head
    other.bfloat16()
    assert other(IDS).dtype == torch.bfloat16
    assert other.embed(IDS).dtype == torch.bfloat16
    state = other.state_dict()
    other.load_state_dict(
        {name: tensor * 0 if tensor.dtype == torch.float16 else tensor for name, tensor in state.items()}
    )
    assert not other.embed(IDS).any()


@pytest.mark.parametrize("bad", [-1, 70, 10**6])
def test_ids_out_of_range(head, bad: int) -> None:
    embedding = TiedEmbedding(head, dtype=torch.float32)
    with pytest.raises(ValueRangeError, match=r"layer 'layer'.*row number out of range.*allowed 0\.\.69"):
        embedding(torch.tensor([0, bad]))


def test_tied_to_each_other_s_dtype_only_through_the_model() -> None:
    head = make_linear(_one_bit().quantize(torch.randn(8, 32)))
    embedding = TiedEmbedding(head, dtype=torch.float16)
    assert embedding(torch.tensor([1])).dtype == torch.float16
    assert head.dtype == torch.float32


def _one_bit() -> Scheme:
    from lowbit.schemes import OneBit

    return OneBit()
