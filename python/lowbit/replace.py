"""`replace_linear`: packs the linear layers of a model in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowbit import backends
from lowbit.errors import DtypeError, FormatError, UnsupportedLayerError, ValueRangeError
from lowbit.formats import PRECISIONS, PackedWeight
from lowbit.modules import PackedEmbedding, PackedModule, QuantizedLinear, TiedEmbedding, make_linear
from lowbit.quantizers.common import one_thread, row_chunks
from lowbit.report import LayerReport, Report
from lowbit.schemes import Scheme
from lowbit.targets import (
    Target,
    find_experts,
    find_targets,
    first_match,
    is_conv1d,
    matches,
    row_scale,
    swap,
)

CONVERTIBLE = "nn.Linear, transformers' Conv1D, nn.Embedding (or a subclass that only scales its rows)"
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DEFAULT_SKIP = ("lm_head",)

Progress = Callable[[int, int, str], None]


def replace_linear(
    model: nn.Module,
    scheme: Scheme,
    skip: Sequence[str] = _DEFAULT_SKIP,
    overrides: Mapping[str, Scheme] | None = None,
    precision: str | None = None,
    backend: str | None = None,
    calibration: object = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Replaces every linear layer of `model` by a packed one, in place.

    Patterns are shell-style (`*`, `?`, `[]`) and are held against the whole dotted name and against its last
    component. Layers that share a weight are packed once and share the packed weight; an embedding tied to a
    converted head reads its rows from the head. An embedding that is not tied is converted only when an
    override names it without wildcards.

    Args:
        model: any module that contains `nn.Linear` or transformers' `Conv1D` layers.
        scheme: what to turn them into, e.g. `lowbit.BipolarInt(weight_bits=4, group_size=32)`.
        skip: patterns of layers left as they are; each must match one, but for the default.
        overrides: pattern -> scheme of the layers it matches, skipped ones included; the first match counts.
        precision: "fast", "high", "exact" for all layers; None: "fast" on CPUs, "high" on GPUs.
        backend: force one of "cuda", "triton", "cpu", "torch".
        calibration: refused: none of today's schemes uses data.
        progress: called with (layers done, layers in all, name of the layer done).

    Returns:
        A table of the converted layers with bits per weight and error, and of the others with the reason.

    Raises:
        UnsupportedLayerError: the model is itself a linear layer; it has fused expert weights that are not
            skipped; an override names a layer that cannot be packed.
        ValueRangeError: bad arguments, weights that are not finite, an override or a skip pattern without
            effect, nothing to convert.
        DtypeError: a weight that is not float32, float16 or bfloat16.
        BackendError: the forced backend cannot run a layer.

        Whatever is raised, the model is as it was.
    """
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    overrides = dict(overrides or {})
    _check_arguments(model, scheme, overrides, precision, backend, calibration)
    plan = _make_plan(model, scheme, skip, overrides)
    new: dict[nn.Module, nn.Module] = {}
    layers = []
    for done, group in enumerate(plan.groups):
        modules, layer = _convert(group, precision, backend)
        new |= modules
        layers.append(layer)
        if progress is not None:
            progress(done + 1, len(plan.groups), layer.name)
    swap(model, new)
    return Report(tuple(layers), plan.skipped)


@dataclass
class _Group:
    """Layers with one weight between them, and its scheme."""

    scheme: Scheme
    targets: list[Target] = field(default_factory=list)


@dataclass
class _Plan:
    groups: list[_Group]
    skipped: dict[str, str]


def _check_arguments(
    model: nn.Module,
    scheme: Scheme,
    overrides: Mapping[str, Scheme],
    precision: str | None,
    backend: str | None,
    calibration: object,
) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedLayerError("not a model", found=type(model).__name__, allowed="an nn.Module")
    if isinstance(model, (nn.Linear, nn.Embedding)) or is_conv1d(model):
        raise UnsupportedLayerError(
            "a layer cannot be replaced inside itself; wrap it, for instance in nn.Sequential",
            found=type(model).__name__,
            allowed="a module that contains the layers",
        )
    for given in (scheme, *overrides.values()):
        if not isinstance(given, Scheme):
            raise ValueRangeError(
                "not a scheme", found=repr(given), allowed="such as lowbit.BinaryMoS(experts=4)"
            )
    if calibration is not None:
        raise ValueRangeError(
            f"{scheme.name} takes no calibration data", found=type(calibration).__name__, allowed="None"
        )
    if precision is not None and precision not in PRECISIONS:
        raise ValueRangeError("unknown precision", found=repr(precision), allowed=", ".join(PRECISIONS))
    backends.forced_name(backend)


def _make_plan(
    model: nn.Module, scheme: Scheme, skip: tuple[str, ...], overrides: Mapping[str, Scheme]
) -> _Plan:
    """Decides for every layer before anything is touched."""
    targets = find_targets(model)
    _check_overrides(model, targets, overrides)
    _check_skip(model, targets, skip)
    skipped = {}
    for name, parameter in find_experts(model):
        pattern = first_match(skip, (name, name.rpartition(".")[0]))
        if pattern is None:
            raise UnsupportedLayerError(
                "fused expert weights are not supported yet; name them in skip to leave them as they are",
                layer=name,
                found=f"a parameter of shape {list(parameter.shape)}",
                allowed="one two-dimensional weight per layer",
            )
        skipped[name] = f"fused expert weights, skip pattern '{pattern}'"

    groups: dict[tuple[object, ...], _Group] = {}
    waiting = []
    for target in targets:
        override = _override_of(target, overrides)
        pattern = None if override else first_match(skip, target.names)
        if pattern is not None:
            skipped[target.name] = f"skip pattern '{pattern}'"
        elif target.reason is not None:
            skipped[target.name] = target.reason
        elif override is None and target.is_embedding:
            waiting.append(target)
        else:
            _join(groups, target, scheme if override is None else overrides[override])
    for target in waiting:  # an embedding goes with the linear layer that shares its weight
        if target.shares_weight() in groups:
            groups[target.shares_weight()].targets.append(target)
    for target in targets:  # and a skipped layer goes with an embedding that an override names
        group = groups.get(target.shares_weight()) if target.name in skipped and not target.reason else None
        if group is not None and all(other.is_embedding for other in group.targets):
            group.targets.append(target)
            del skipped[target.name]
    if not groups:
        packed = sum(isinstance(module, PackedModule) for module in model.modules())
        raise ValueRangeError(
            "no layer to convert",
            found=f"skip={skip}" + (f", {packed} layers that are packed already" if packed else ""),
            allowed=CONVERTIBLE,
        )
    return _Plan(list(groups.values()), skipped)


def _override_of(target: Target, overrides: Mapping[str, Scheme]) -> str | None:
    """The override that counts for a target; wildcards do not reach embeddings."""
    patterns = [pattern for pattern in overrides if not target.is_embedding or _is_literal(pattern)]
    return first_match(patterns, target.names)


def _join(groups: dict[tuple[object, ...], _Group], target: Target, scheme: Scheme) -> None:
    group = groups.setdefault(target.shares_weight(), _Group(scheme))
    if group.scheme != scheme:
        raise ValueRangeError(
            f"shares its weight with '{group.targets[0].name}' but is given another scheme",
            layer=target.name,
            found=scheme,
            allowed=group.scheme,
        )
    group.targets.append(target)


def _check_overrides(model: nn.Module, targets: list[Target], overrides: Mapping[str, Scheme]) -> None:
    """Every override must have an effect, and one that names a layer must be able to have it."""
    used = {_override_of(target, overrides) for target in targets if target.reason is None}
    reasons = {name: target.reason for target in targets for name in target.names}
    for pattern in overrides:
        named = [(name, child) for name, child in model.named_modules() if name and matches(pattern, name)]
        for name, child in named if _is_literal(pattern) else []:
            packed = isinstance(child, PackedModule)
            reason = reasons.get(name, "it is already" if packed else "not a linear layer or an embedding")
            if reason is not None:
                raise UnsupportedLayerError(
                    f"cannot be packed: {reason}",
                    layer=name,
                    found=type(child).__name__,
                    allowed=CONVERTIBLE,
                )
        if pattern not in used:
            already = any(isinstance(child, PackedModule) for _, child in named)
            raise ValueRangeError(
                "override without effect: it matches no layer that can be packed, or an earlier one does",
                found=repr(pattern) + (", of layers that are packed already" if already else ""),
                allowed="a name or pattern of a linear layer",
            )


def _check_skip(model: nn.Module, targets: list[Target], skip: tuple[str, ...]) -> None:
    """A pattern that matches nothing is a slip, and would pack what it was to protect."""
    names = [name for target in targets for name in target.names]
    for name, _ in find_experts(model):
        names += [name, name.rpartition(".")[0]]
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (PackedModule, TiedEmbedding)):
            names.append(name)
    for pattern in skip:
        if pattern not in _DEFAULT_SKIP and first_match((pattern,), names) is None:
            raise ValueRangeError(
                "skip pattern without effect: it matches no layer",
                found=repr(pattern),
                allowed="a name or pattern of a linear layer, as in 'model.vision.*' or '*_proj'",
            )


def _is_literal(pattern: str) -> bool:
    return not any(mark in pattern for mark in "*?[")


def _convert(
    group: _Group, precision: str | None, backend: str | None
) -> tuple[dict[nn.Module, nn.Module], LayerReport]:
    """New modules for all layers of a group; the old ones are only read."""
    group.targets.sort(key=lambda target: target.is_embedding)
    owner, *others = group.targets
    weight = owner.weight
    if weight.dtype not in WEIGHT_DTYPES:
        raise DtypeError(
            "unsupported dtype of the weight", layer=owner.name, found=weight.dtype, allowed=WEIGHT_DTYPES
        )
    if weight.device.type == "meta":
        raise FormatError(
            "the weight has no data", layer=owner.name, found="the meta device", allowed="a real device"
        )
    packed = group.scheme.quantize(weight, layer=owner.name)
    first = _new_owner(owner, packed, group.scheme, precision, backend)
    new: dict[nn.Module, nn.Module] = {owner.module: first}
    for other in others:
        new[other.module] = _new_sharer(other, first)
    layer = LayerReport(
        name=owner.name,
        module=type(owner.module).__name__,
        shape=(weight.shape[0], weight.shape[1]),
        scheme=group.scheme.name,
        bits_per_weight=packed.bits_per_weight,
        relative_error=relative_error(weight, packed),
        nbytes=packed.nbytes,
        dense_nbytes=weight.nbytes,
        backend=first.backend,
        shared_with=tuple(name for target in group.targets for name in target.names)[1:],
    )
    return new, layer


def _new_owner(
    target: Target, packed: PackedWeight, scheme: Scheme, precision: str | None, backend: str | None
) -> PackedModule:
    common: dict[str, Any] = {
        "dtype": target.weight.dtype,
        "scheme": scheme,
        "backend": backend,
        "name": target.name,
    }
    if isinstance(target.module, nn.Embedding):
        scale = row_scale(target.module)
        assert not isinstance(scale, str)  # such a target has a reason and is in no group
        return PackedEmbedding(packed, row_scale=scale, **common)
    return make_linear(packed, target.module._parameters.get("bias"), precision=precision, **common)


def _new_sharer(target: Target, owner: PackedModule) -> nn.Module:
    if isinstance(target.module, nn.Embedding):
        scale = row_scale(target.module)
        assert not isinstance(scale, str)
        return TiedEmbedding(owner, dtype=target.weight.dtype, row_scale=scale)
    assert isinstance(owner, QuantizedLinear)  # linear layers come first in a group
    bias = target.module._parameters.get("bias")
    return owner if bias is owner.bias else owner.sharing_weight(bias, target.name)


@one_thread()
def relative_error(weight: Tensor, packed: PackedWeight) -> float:
    """||W - W'|| / ||W|| (Frobenius); 0 when both are zero, infinite when only W is."""
    sums = torch.zeros(2, dtype=torch.float64, device=weight.device)
    for rows, exact in row_chunks(weight):
        rounded = packed.rows(torch.arange(rows.start, rows.stop, device=weight.device))
        sums[0] += (exact - rounded).double().square().sum()
        sums[1] += exact.double().square().sum()
    difference, norm = sums.tolist()
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return float((difference / norm) ** 0.5)
