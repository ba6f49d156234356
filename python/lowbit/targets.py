"""Which modules of a model can be packed, which share a weight, and where they hang."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lowbit.formats import QuantizationConfig
from lowbit.modules import PackedModule, RowScale, TiedEmbedding
from lowbit.schemes import Scheme

# Modules that keep the weights of many experts in one three-dimensional parameter, by the names in use.
_EXPERT_NAME = re.compile(r"expert|moe|gate_up_proj|gate_proj|up_proj|down_proj|(^|\.)w[123]$", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A module that is, or looks like, a linear layer or an embedding.

    Attributes:
        names: its dotted names; more than one where the model uses the same module in several places.
        module: the module.
        reason: why it cannot be packed; None if it can.
    """

    names: tuple[str, ...]
    module: nn.Module
    reason: str | None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_embedding(self) -> bool:
        return isinstance(self.module, nn.Embedding)

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features]; for Conv1D a transposed view."""
        weight = self.module.get_parameter("weight").detach()
        return weight.T if is_conv1d(self.module) else weight

    def module_shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.weight.shape[0], self.weight.shape[1]

    def shares_weight(self) -> tuple[object, ...]:
        """Equal for modules whose weight is the same memory, read the same way."""
        parameter = self.module.get_parameter("weight")
        if parameter.device.type == "meta":
            return (id(parameter),)
        weight = self.weight
        return (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape, weight.stride())


def matches(pattern: str, name: str) -> bool:
    """Shell-style match of the whole dotted name or of its last component."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[2], pattern)


def first_match(patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """The first pattern that matches any of the names."""
    candidates = tuple(names)
    return next((pattern for pattern in patterns if any(matches(pattern, name) for name in candidates)), None)


def scheme_of(config: QuantizationConfig, name: str) -> Scheme:
    """The scheme of a packed layer: of the override of exactly its name, else of the first that matches."""
    override = name if name in config.overrides else first_match(config.overrides, (name,))
    return config.scheme if override is None else config.overrides[override]


def is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D: a linear layer with its weight transposed. Told by name, to import nothing."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def find_targets(model: nn.Module) -> list[Target]:
    """Every linear layer and embedding below `model`, in order."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return [
        Target(tuple(found), module, why_not(module))
        for module, found in names.items()
        if isinstance(module, (nn.Linear, nn.Embedding)) or is_conv1d(module)
    ]


def find_experts(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(dotted name, parameter) of fused expert weights: [experts, ., .] in one parameter."""
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{key}".removeprefix(".")
            if parameter.dim() == 3 and _EXPERT_NAME.search(f"{type(module).__name__}.{full}"):
                yield full, parameter


def why_not(module: nn.Module) -> str | None:
    """Why a linear layer or embedding cannot be packed; None if it can."""
    weight = module._parameters.get("weight")
    if parametrize.is_parametrized(module) or weight is None:
        return "its weight is computed from other parameters"
    if isinstance(weight, UninitializedParameter):
        return "its weight has no shape yet"
    if "forward" in vars(module):
        return "its forward has been replaced on the instance"
    if isinstance(module, nn.Embedding):
        scale = row_scale(module)
        return scale if isinstance(scale, str) else None
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention reads its weight directly"
    if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
        return f"{type(module).__name__} has a forward of its own"
    return None


def row_scale(module: nn.Embedding) -> RowScale | str:
    """The factor an embedding multiplies its rows by, or why it cannot be read from packed rows.

    A subclass with a forward of its own passes when it has a scalar `embed_scale` and its output on a few
    rows is exactly row times that scalar; without data (meta device) the attribute has to do.
    """
    if module.max_norm is not None:
        return "it renormalises its rows (max_norm)"
    if type(module).forward is nn.Embedding.forward:
        return RowScale()
    refusal = f"{type(module).__name__} does more than multiply rows by embed_scale"
    factor = getattr(module, "embed_scale", None)
    if isinstance(factor, (int, float)):
        scale = RowScale(float(factor))
    elif isinstance(factor, Tensor) and factor.numel() == 1 and factor.device.type != "meta":
        scale = RowScale(float(factor), rounded=True)
    else:
        return refusal
    if module.weight.device.type == "meta":
        return scale
    ids = torch.tensor(
        [0, module.num_embeddings // 2, module.num_embeddings - 1], device=module.weight.device
    )
    with torch.no_grad():
        try:
            actual = module.forward(ids)  # not its hooks
        except (RuntimeError, TypeError, ValueError):
            return refusal
        expected = scale.apply(module.weight[ids])
    return scale if torch.equal(actual, expected) else refusal


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def swap(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Puts each new module in every place of its old one, with its training mode and its hooks.

    Nothing here can fail half-way.
    """
    for old, module in new.items():
        module.train(old.training)
        for attribute in _HOOKS:
            setattr(module, attribute, getattr(old, attribute))
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[key] = new[child]
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fast path would give `linear1.weight` to a fused dense kernel; this rules it out.
                    parent.activation_relu_or_gelu = 0
    _forget_tied_weights(model)


def _forget_tied_weights(model: nn.Module) -> None:
    """Makes transformers' `tie_weights` leave packed layers alone, where it would put dense weights back."""
    for module in model.modules():
        packed = {
            name for name, child in module.named_modules() if isinstance(child, (PackedModule, TiedEmbedding))
        }
        for attribute in ("_tied_weights_keys", "all_tied_weights_keys"):
            keys = getattr(module, attribute, None)
            if isinstance(keys, dict):
                kept = {
                    target: source
                    for target, source in keys.items()
                    if not {target.rpartition(".")[0], source.rpartition(".")[0]} & packed
                }
                setattr(module, attribute, kept)
