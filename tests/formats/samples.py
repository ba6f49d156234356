"""Random packed weights of every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lowbit.formats import (
    CodebookChannel,
    CodebookScalar,
    CodebookVector,
    PackedWeight,
    Planes,
    Signs,
    pack_bits,
    pack_codes,
)
from lowbit.formats.base import group_count
from torch import Tensor

N, K = 19, 77


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def floats(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    """Positive values around 1."""
    return (torch.rand(shape, generator=generator(seed)) + 0.5).to(dtype)


def random_signs(n: int, k: int, seed: int = 0) -> Tensor:
    return pack_bits(torch.rand(n, k, generator=generator(seed)) > 0.5)


def binary_mos(n: int = N, k: int = K, experts: int = 4) -> Signs:
    return Signs(
        random_signs(n, k),
        k,
        router=floats(experts, k, seed=1) - 1,
        in_scales=floats(experts, k, seed=2),
        out_scales=floats(experts, n, seed=3),
    )


def one_bit(n: int = N, k: int = K) -> Signs:
    return Signs(random_signs(n, k), k, in_scales=floats(1, k, seed=2), out_scales=floats(1, n, seed=3))


def grouped_signs(n: int = N, k: int = K, group_size: int = 32) -> Signs:
    return Signs(random_signs(n, k), k, floats(n, group_count(k, group_size)), group_size)


def planes(
    n: int = N, k: int = K, bits: int = 4, group_size: int = 32, asymmetric: bool = False, seed: int = 0
) -> Planes:
    codes = torch.randint(0, 2**bits, (n, k), generator=generator(seed))
    groups = group_count(k, group_size)
    offsets = torch.randint(-40, 40, (n, groups), generator=generator(seed + 1), dtype=torch.int16)
    return Planes(pack_codes(codes, bits), floats(n, groups), k, group_size, offsets if asymmetric else None)


def channels(n: int = N, k: int = K, clusters: int = 5, axis: int = 0, rank: int = 3) -> CodebookChannel:
    return CodebookChannel(
        floats(*((clusters, k) if axis == 0 else (n, clusters))),
        torch.randint(0, clusters, (n if axis == 0 else k,), generator=generator(1)).to(torch.uint8),
        axis,
        k,
        n,
        floats(n, rank, seed=2) if rank else None,
        floats(rank, k, seed=3) if rank else None,
    )


def scalars(n: int = N, k: int = K, bits: int = 3, outliers: bool = False) -> CodebookScalar:
    codes = torch.randint(0, 2**bits, (n, k), generator=generator(1))
    sparse = {}
    if outliers:
        places = torch.rand(n, k, generator=generator(2)) < 0.1
        places[0, 0] = True
        sparse = {
            "outlier_offsets": torch.nn.functional.pad(places.sum(1).cumsum(0), (1, 0)).int(),
            "outlier_columns": places.nonzero()[:, 1].int(),
            "outlier_values": floats(int(places.sum()), seed=3),
        }
    return CodebookScalar(pack_codes(codes, bits), floats(n, 2**bits), k, **sparse)


def vectors(n: int = N, k: int = K, books: int = 2, size: int = 8) -> CodebookVector:
    codes = torch.randint(0, 256, (books, n, -(-k // size)), generator=generator(1))
    return CodebookVector(codes.to(torch.uint8), floats(books, 256, size), floats(n, seed=2), k)


SAMPLES: dict[str, Callable[[], PackedWeight]] = {
    "binary_mos": binary_mos,
    "one_bit": one_bit,
    "grouped_signs": grouped_signs,
    "bare_signs": lambda: Signs(random_signs(N, K), K),
    "planes": planes,
    "planes_asymmetric": lambda: planes(asymmetric=True),
    "planes_row": lambda: planes(bits=2, group_size=-1, asymmetric=True),
    "channel_rows": channels,
    "channel_columns": lambda: channels(axis=1),
    "channel_uncorrected": lambda: channels(rank=0),
    "scalar": scalars,
    "scalar_outliers": lambda: scalars(outliers=True),
    "vector": vectors,
}
