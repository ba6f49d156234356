"""The layouts of the CUDA backend and what its operators refuse, on the emulated device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from lowbit.backends import cuda, cuda_plan
from lowbit.backends.arguments import ARGUMENTS
from lowbit.formats import Planes, Signs
from lowbit.formats.base import group_count

from tests.emulated.device import BUILD, KIND
from tests.native import needs_emulated
from tests.ops import cases, targets

pytestmark = [
    needs_emulated,
    pytest.mark.skipif(KIND != "", reason="torch's allocator is no sanitizer's"),
]


@pytest.fixture(autouse=True)
def _emulated_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    targets.load(targets.EMULATED)
    monkeypatch.setattr(cuda, "_layouts", lambda: torch.ops.lowbit_emulated)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("any_bits", [False, True])
def test_shape_of_tiles(bits: int, any_bits: bool) -> None:
    """That Python knows without the library."""
    n, k = 33, 1100
    planes = torch.randint(0, 256, (bits, n, (k + 7) // 8), dtype=torch.uint8)
    tiles = cuda.repack_bits(planes, k, any_bits)
    widths = cuda.digit_widths(bits, tiles.shape[1])
    assert sum(widths) == bits
    assert tiles.shape == (bits, len(widths), cuda.tile_words(n, k, widths), 16)
    assert tiles.shape[1] == (bits if any_bits else len(cuda.digit_widths(bits, 0)))


@pytest.mark.parametrize("group_size", [-1, 32, 96, 128, 256])
@pytest.mark.parametrize("k", [1, 100, 1024, 1300])
def test_groups_are_the_kernels(group_size: int, k: int) -> None:
    values = torch.randn(19, group_count(k, group_size))
    units = cuda.repack_groups(values, k, group_size)
    assert units.shape[0] == 32
    assert not units[19:].any()
    assert torch.equal(cuda.restore_groups(units[:19], k, group_size), values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 130, dtype=torch.int32)}, "x must be a float32"),
        ({1: torch.zeros(3, 7, dtype=torch.uint8)}, "tiles must be a contiguous uint8 tensor"),
        ({2: torch.zeros(3, 7)}, "scales must be"),
        ({8: 9}, "active_bits"),
        ({9: 11}, "activation_bits"),
        ({10: 7}, "precision"),
    ],
)
def test_wrong_arguments(change: dict[int, object], message: str) -> None:
    layer = cases.make("planes", 20, 130, target=targets.EMULATED)
    arguments = [cases.activations(2, 130, torch.float32), *layer.arguments("high")]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        layer.operator()(*arguments)


MANY = 257


@pytest.fixture(params=["signs", "planes", "outliers", "vector"])
def many(request: pytest.FixtureRequest) -> tuple[cases.Layer, torch.Tensor]:
    """A layer, and more tokens than its kernels keep to themselves."""
    layer = cases.make(request.param, 20, 130, group_size=-1, target=targets.EMULATED)
    return layer, cases.activations(MANY, 130, torch.float32)


@pytest.fixture
def allow() -> Iterator[Callable[[bool], None]]:
    """Lets torch sum products of fp16 in fp16, or not."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_fp16_accumulation
    yield lambda allowed: setattr(settings, "allow_fp16_accumulation", allowed)
    settings.allow_fp16_accumulation = before


def test_sums_in_fp16_are_declined(
    many: tuple[cases.Layer, torch.Tensor],
    allow: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where torch may sum fp16 in fp16, the package's own kernel multiplies, and explain says so."""
    layer, x = many
    products: list[torch.dtype] = []

    def product(a: torch.Tensor, *args: object, **out: object) -> torch.Tensor:
        products.append(a.dtype)
        return torch_product(a, *args, **out)  # type: ignore[arg-type]

    torch_product = targets.product
    monkeypatch.setattr(targets, "product", product)
    monkeypatch.setattr(cuda_plan, "LIBRARY", BUILD / "liblowbit_emulated.so")
    cuda_plan._library.cache_clear()

    kind, arguments = layer.packed.kind, layer.arguments("high")
    named = ARGUMENTS[kind](x, *arguments)._asdict()
    of_bits = kind in cuda.KINDS_OF_BITS
    widths = tuple(cuda.digit_widths(*named["weight"].shape[:2])) if of_bits else ()
    own, rounding = {"codebook_scalar": ("selectors", 1e-3), "codebook_vector": ("tensor", 1e-3)}.get(
        kind, ("gemm", 1e-5)
    )
    for allowed, kernel, eps in ((False, "matmul", 1e-3), (True, own, rounding), (False, "matmul", 1e-3)):
        products.clear()
        allow(allowed)
        y = layer.operator()(x, *arguments)
        assert bool(products) is not allowed
        cases.check(layer, x, y, "high", eps)
        choice = cuda_plan.choose(kind, named, cuda_plan.Gpu(90, 132), widths)
        assert choice.kernel == kernel
    cuda_plan._library.cache_clear()


def test_reason_of_torch(many: tuple[cases.Layer, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of a product that fails is in the error."""

    def product(*args: object, **out: object) -> torch.Tensor:
        raise RuntimeError("CUBLAS_STATUS_MADE_UP")

    layer, x = many
    monkeypatch.setattr(targets, "product", product)
    message = (
        "_linear: the caller's matrix product failed: lowbit: torch's mm failed: .*CUBLAS_STATUS_MADE_UP"
    )
    with pytest.raises(RuntimeError, match=message):
        layer.operator()(x, *layer.arguments("high"))


def test_kinds_are_those_of_the_formats() -> None:
    assert {Signs.kind, Planes.kind} == set(cuda.KINDS_OF_BITS)
