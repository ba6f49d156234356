"""What the operators refuse, which take tensors as the kernels read them: nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lowbit.backends.arguments import PlanesArguments
from lowbit.errors import DtypeError, FormatError, ShapeError, ValueRangeError
from lowbit.ops import _triton_arguments
from lowbit.triton_kernels.launch import dry_run

from tests.ops import cases, targets

N, K = 33, 300


def call(kind: str, change: dict[str, Any]) -> None:
    """The operator of a layer, with other arguments under their names."""
    targets.load(targets.TRITON)
    layer = cases.make(kind, N, K, target=targets.TRITON)
    names = [argument.name for argument in layer.operator()._schema.arguments]
    x = cases.activations(2, K, torch.float16)
    arguments = dict(zip(names, [x, *layer.arguments("high")], strict=True))
    made = {name: new(arguments[name]) if callable(new) else new for name, new in change.items()}
    with dry_run():
        layer.operator()(*{**arguments, **made}.values())


def less(size: int = 1, dim: int = -1) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.narrow(dim, 0, tensor.shape[dim] - size).contiguous()


def strided(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor], -1)[..., : tensor.shape[-1]]


EVERY = [
    ({"x": torch.Tensor.double}, DtypeError, "input"),
    ({"x": less()}, ShapeError, "input"),
    ({"precision": 3}, ValueRangeError, "precision"),
    ({"precision": -1}, ValueRangeError, "precision"),
    ({"bias": less()}, ShapeError, "'bias'"),
]
BITS = [
    ({"weight": less(dim=2)}, ShapeError, "'weight' for 33 rows"),
    ({"weight": less(dim=3)}, ShapeError, "'weight'"),
    ({"weight": lambda weight: weight[0]}, ShapeError, "'weight'"),
    ({"weight": lambda weight: weight.view(torch.int8)}, DtypeError, "'weight'"),
    ({"weight": strided}, ShapeError, "elsewhere"),
    ({"scales": less(dim=0)}, ShapeError, "'scales'"),
    ({"scales": torch.Tensor.double}, DtypeError, "'scales'"),
    ({"scales": strided}, ShapeError, "elsewhere"),
    ({"group_size": 48}, ValueRangeError, "group_size"),
    ({"out_features": 0, "bias": None}, ShapeError, "'weight'"),
]
OF_KINDS: dict[str, list[tuple[dict[str, Any], type[FormatError], str]]] = {
    "signs": [
        *BITS,
        ({"segments": [N, 1]}, ShapeError, "segments"),
        ({"segments": [N + 5, -5]}, ShapeError, "segments"),
    ],
    "mos": [
        ({"router": less(dim=0)}, ShapeError, "'router'"),
        ({"in_scales": less()}, ShapeError, "'in_scales'"),
        ({"out_scales": less()}, ShapeError, "'out_scales'"),
        ({"segments": [N - 1, 1]}, ShapeError, "'in_scales'"),
    ],
    "planes": [
        *BITS,
        ({"offsets": torch.Tensor.int}, DtypeError, "'offsets'"),
        ({"offsets": less(dim=0)}, ShapeError, "'offsets'"),
        ({"active_bits": 0}, ValueRangeError, "active_bits"),
        ({"activation_bits": 9}, ValueRangeError, "activation_bits"),
    ],
    "channel0": [
        ({"labels": less()}, ShapeError, "'low_rank_out'"),
        ({"weight": less()}, ShapeError, "'weight'"),
        ({"low_rank_in": None}, FormatError, "low-rank"),
        ({"out_features": N - 1, "bias": None}, ShapeError, "out_features"),
    ],
    "channel1": [
        ({"labels": less()}, ShapeError, "'labels'"),
        ({"labels": torch.Tensor.long}, DtypeError, "'labels'"),
        ({"low_rank_out": less(dim=0)}, ShapeError, "'low_rank_out'"),
    ],
    "outliers": [
        ({"weight": less()}, ShapeError, "'weight'"),
        ({"weight": less(dim=0)}, ShapeError, "'weight'"),
        ({"tables": less()}, ShapeError, "'tables'"),
        ({"outlier_offsets": less()}, ShapeError, "'outlier_offsets'"),
        ({"outlier_values": less()}, ShapeError, "'outlier_values'"),
        ({"outlier_columns": None}, FormatError, "incomplete"),
    ],
    "vector": [
        ({"weight": less()}, ShapeError, "'weight'"),
        ({"weight": less(dim=0)}, ShapeError, "'weight'"),
        ({"codebooks": less(dim=1)}, ShapeError, "'codebooks'"),
        ({"codebooks": lambda codebooks: codebooks[:, :, :0]}, ShapeError, "'codebooks'"),
        (
            {"codebooks": lambda codebooks: codebooks[:0], "weight": lambda weight: weight[:0]},
            ShapeError,
            "books",
        ),
        ({"out_scales": torch.Tensor.double}, DtypeError, "'out_scales'"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [(kind, *case) for kind, own in OF_KINDS.items() for case in (*EVERY, *own)],
)
def test_what_does_not_fit_is_refused(
    kind: str, change: dict[str, Any], error: type[FormatError], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(kind, change)


def test_another_device() -> None:
    """Torch looks at the devices of arguments only to choose an implementation."""
    layer = cases.make("planes", N, K, target=targets.TRITON)
    x, (weight, *others) = torch.empty(2, K), layer.arguments("high")
    _triton_arguments.planes(PlanesArguments(x, weight, *others))
    with pytest.raises(ShapeError, match=r"on meta; allowed contiguous ones on cpu"):
        _triton_arguments.planes(PlanesArguments(x, weight.to("meta"), *others))


@pytest.mark.parametrize("kind", cases.KINDS)
def test_what_fits_is_not(kind: str) -> None:
    call(kind, {})
