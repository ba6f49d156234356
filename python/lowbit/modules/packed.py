"""What modules with packed weights share: buffers, layout, state dict, moves between devices and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowbit import backends
from lowbit.backends import packed_format
from lowbit.errors import DtypeError, LowbitError, UnsupportedLayerError, ValueRangeError
from lowbit.formats import PackedWeight, packed_from_tensors
from lowbit.schemes import Scheme

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Plan(NamedTuple):
    """What a call needs besides tensors, worked out once: the operator and its numbers."""

    operator: Callable[..., Tensor]
    numbers: tuple[Any, ...]


class LinearSettings:
    """What only linear layers can be set to, for modules that share their weights.

    Without these nn.Module would make an attribute of it, which nothing reads.
    """

    kind: str
    layer_name: str | None

    @property
    def active_bits(self) -> int:
        """Planes read per product; of `PlanesLinear` alone."""
        raise AttributeError("active_bits")  # nn.Module makes a sentence of it

    @active_bits.setter
    def active_bits(self, value: int | None) -> None:
        self._refuse("active_bits", value, "a PlanesLinear")

    @property
    def activation_bits(self) -> int:
        """Bits of the activations; of `PlanesLinear` alone."""
        raise AttributeError("activation_bits")

    @activation_bits.setter
    def activation_bits(self, value: int | None) -> None:
        self._refuse("activation_bits", value, "a PlanesLinear")

    @property
    def precision(self) -> str:
        """How activations are quantised; of linear layers alone."""
        raise AttributeError("precision")

    @precision.setter
    def precision(self, value: str | None) -> None:
        self._refuse("precision", value, "a linear layer")

    def _refuse(self, name: str, value: object, owner: str) -> None:
        if value is not None:
            raise ValueRangeError(
                f"{name} of a {type(self).__name__} of {self.kind}",
                layer=self.layer_name,
                found=repr(value),
                allowed=f"None; only {owner} has it",
            )


class PackedModule(LinearSettings, nn.Module):
    """A packed weight [out_features, in_features] as buffers named like the tensors of its checkpoint.

    The buffers hold the layout of the backend that runs the module, and nothing else is kept in memory.
    `state_dict()` and `load_state_dict()` speak the canonical layout, so they do not depend on the backend.
    Casting the module (`.half()`, `.to(torch.bfloat16)`) changes the dtype it computes in, never the packed
    tensors.

    Args:
        packed: the weight; its tensors may be on the meta device, to be filled by `load_state_dict` later.
        dtype: floating dtype the model computes in.
        scheme: what made `packed`, kept for checkpoints and reports.
        backend: name of the backend to force; None takes the first that can run the layer.
        name: dotted name in the model, for error messages.

    Raises:
        BackendError: the forced backend cannot run this layer.
        DtypeError: `dtype` is not a floating dtype.
    """

    _any_bits = False  # whether fewer bits than stored may be asked for
    _plan: Plan | None = None  # of the next call; any attribute that is set makes it void

    def __init__(
        self,
        packed: PackedWeight,
        *,
        dtype: torch.dtype,
        scheme: Scheme | None = None,
        backend: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if dtype not in FLOAT_DTYPES:
            raise DtypeError("no floating dtype to compute in", layer=name, found=dtype, allowed=FLOAT_DTYPES)
        self.kind = packed.kind
        self.metadata = packed.metadata()
        self.in_features = packed.in_features
        self.out_features = packed.out_features
        self.group_size = packed.group_size  # -1 where a scale serves a whole row or there is none
        self.bits_per_weight = packed.bits_per_weight
        self.scheme = scheme
        self.dtype = dtype
        self.layer_name = name
        self._wanted_backend = backend
        self._take(packed.tensors())

    @property
    def device(self) -> torch.device:
        """Where the packed tensors are."""
        weight = self._buffers["weight"]
        assert weight is not None
        return weight.device

    @property
    def backend(self) -> str:
        """Name of the backend that runs this module."""
        return self._backend

    @property
    def backend_reason(self) -> str:
        """Why this backend, and why not the ones before it in the order of preference."""
        before = "".join(f"; {name}: {why}" for name, why in self._rejected.items())
        return self._reason + before

    @property
    def nbytes(self) -> int:
        """Bytes the packed tensors take in memory, in the backend's layout."""
        return sum(tensor.nbytes for tensor in self.runtime_tensors().values())

    def runtime_tensors(self) -> dict[str, Tensor]:
        """The packed buffers as they are, in the backend's layout."""
        return {name: self.get_buffer(name) for name in self._packed_names}

    def canonical_tensors(self) -> dict[str, Tensor]:
        """The packed tensors in the checkpoint's layout."""
        return backends.get(self._backend).restore(self.runtime_tensors(), self.metadata)

    def packed(self) -> PackedWeight:
        """The weight as a format object (a copy where the backend has a layout of its own)."""
        return packed_format(self.canonical_tensors(), self.metadata)

    def dequantize(self) -> Tensor:
        """The weight as the packed form has it: float32 [out_features, in_features]."""
        return self.packed().dequantize()

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` (int64 [n]) of `dequantize()`, read from the packed form: float32 [n, in_features].

        Raises:
            ValueRangeError: an id is out of range. Compiled code cannot raise; there an id must be in range.
        """
        if not torch.compiler.is_compiling() and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.out_features:
                raise ValueRangeError(
                    "row number out of range",
                    layer=self.layer_name,
                    found=f"{low}..{high}",
                    allowed=f"0..{self.out_features - 1}",
                )
        return backends.get(self._backend).rows(self.runtime_tensors(), self.metadata, ids)

    def _select(self, device: torch.device, dtype: torch.dtype) -> backends.Choice:
        if device.type == "meta":
            return backends.Choice(backends.get("torch"), "no data yet: canonical layout", {})
        return backends.select(
            self.kind,
            device=device,
            dtype=dtype,
            backend=self._wanted_backend,
            layer=self.layer_name,
        )

    def _take(self, canonical: dict[str, Tensor]) -> None:
        """Chooses the backend for these canonical tensors and keeps them in its layout."""
        choice = self._select(canonical["weight"].device, self.dtype)
        canonical = {name: tensor.contiguous() for name, tensor in canonical.items()}
        laid_out = choice.backend.prepare(canonical, self.metadata, self._any_bits)
        self._adopt(choice)
        self._packed_names = tuple(laid_out)
        for name, tensor in laid_out.items():
            self.register_buffer(name, tensor)

    def _adopt(self, choice: backends.Choice) -> None:
        self._backend = choice.backend.name
        self._reason = choice.reason
        self._rejected = choice.rejected

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedModule:
        """Moves and casts: the packed tensors follow to another device, only the rest changes dtype."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        dtype = probe.dtype if probe.dtype in FLOAT_DTYPES else self.dtype
        choice = self._select(probe.device, dtype)
        held = self.runtime_tensors()
        same_layout = probe.device == self.device and choice.backend.name == self._backend
        source = held if same_layout else self.canonical_tensors()
        moved = {name: _keep_dtype(fn, tensor) for name, tensor in source.items()}
        if not same_layout:
            moved = choice.backend.prepare(moved, self.metadata, self._any_bits)
        with self._without_packed():
            super()._apply(fn, recurse)
        self._buffers.update(moved)
        self._adopt(choice)
        self.dtype = dtype
        return self

    @contextmanager
    def _without_packed(self) -> Iterator[None]:
        """Hides the packed buffers from the base class's methods."""
        held = {name: self._buffers.pop(name) for name in self._packed_names}
        try:
            yield
        finally:
            self._buffers.update(held)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy or unpickling; the process that unpickles may lack the backend."""
        super().__setstate__(state)
        if not backends.get(self._backend).available().ok:
            self._take(self.canonical_tensors())

    def __setattr__(self, name: str, value: Any) -> None:
        # Tying code assigns `module.weight = other.weight`, which would replace packed bytes without a word.
        if isinstance(value, nn.Parameter) and name in self.__dict__.get("_packed_names", ()):
            raise UnsupportedLayerError(
                "the packed weight cannot be replaced by a parameter", layer=self.layer_name, found=name
            )
        super().__setattr__(name, value)
        self.__dict__["_plan"] = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plan": None}  # operators cannot be pickled

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        with self._without_packed():
            super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.canonical_tensors().items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """All of the module or, when any part of it is wrong, nothing."""
        names = self._packed_names
        absent = [prefix + name for name in names if prefix + name not in state_dict]
        given = {name: state_dict[prefix + name] for name in names} if not absent else {}
        if given:
            try:
                packed_from_tensors(given, self.metadata, layer=prefix.rstrip(".") or self.layer_name)
            except LowbitError as error:
                error_msgs.append(str(error))
                return
        rest = {k: v for k, v in state_dict.items() if k.removeprefix(prefix) not in names}
        errors = len(error_msgs)
        with self._without_packed():
            super()._load_from_state_dict(
                rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        if absent:
            missing_keys.extend(absent if strict else [])
            return
        if len(error_msgs) > errors:
            return
        device = self.device
        if not local_metadata.get("assign_to_params_buffers", False):
            given = {name: tensor.clone() for name, tensor in given.items()}
        if device.type != "meta":
            given = {name: tensor.to(device) for name, tensor in given.items()}
        self._take(given)


def _keep_dtype(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """fn's device and storage, the tensor's own dtype."""
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)


def cast_dtype(fn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> torch.dtype:
    """What a function given to `Module._apply` makes of a floating dtype."""
    after = fn(torch.empty(0, dtype=dtype)).dtype
    return after if after in FLOAT_DTYPES else dtype
