"""The `quantization_config` of a checkpoint's config.json, both ways.

    {
      "quant_method": "lowbit",
      "format": "bipolar_int",              the scheme's name, then its fields
      "format_version": 1,
      "weight_bits": 4, "group_size": 32, ...
      "modules_to_not_convert": ["model.layers.0.mlp.gate_proj"],
      "overrides": {"lm_head": {"format": "bipolar_int", "weight_bits": 8, ...}},
      "layers": {"model.layers.0.mlp.up_proj": {"kind": "planes", "in_features": 640, ...}, "lm_head": ...},
      "tied": {"model.embed_tokens": "lm_head"}
    }

`layers` is each layer's PackedWeight.metadata(); `tied` maps a module to the one whose packed weight
it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lowbit.errors import FormatError
from lowbit.schemes import Scheme, scheme_fields, scheme_from_config

QUANT_METHOD = "lowbit"
FORMAT_VERSION = 1

_HEADER = ("quant_method", "format_version")
_SECTIONS = ("modules_to_not_convert", "overrides", "layers", "tied")


@dataclass(frozen=True)
class QuantizationConfig:
    """How a model was packed.

    Attributes:
        scheme: of every converted layer without an override.
        modules_to_not_convert: names or patterns of layers left as they are.
        overrides: module name or pattern -> its own scheme.
        layers: module name -> PackedWeight.metadata(); may be empty.
        tied: module name -> name of the module that holds its packed weight.
    """

    scheme: Scheme
    modules_to_not_convert: tuple[str, ...] = ()
    overrides: Mapping[str, Scheme] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """The JSON-able dict for config.json."""
        return {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            **self.scheme.to_config(),
            "modules_to_not_convert": list(self.modules_to_not_convert),
            "overrides": {name: scheme.to_config() for name, scheme in self.overrides.items()},
            "layers": {name: dict(metadata) for name, metadata in self.layers.items()},
            "tied": dict(self.tied),
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> QuantizationConfig:
        """Inverse of :meth:`to_dict`; missing sections and scheme fields take their defaults.

        Raises:
            FormatError: another quant_method, another version, an unknown field or format, a wrong type.
        """
        if config.get("quant_method") != QUANT_METHOD:
            raise FormatError(
                "wrong quant_method", found=repr(config.get("quant_method")), allowed=QUANT_METHOD
            )
        version = config.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise FormatError("unknown format_version", found=repr(version), allowed=FORMAT_VERSION)
        allowed = (*_HEADER, *scheme_fields(config.get("format")), *_SECTIONS)
        for name in config:
            if name not in allowed:
                raise FormatError(
                    "unknown field in quantization_config", found=repr(name), allowed=", ".join(allowed)
                )
        scheme = {name: value for name, value in config.items() if name not in (*_HEADER, *_SECTIONS)}
        return cls(
            scheme=scheme_from_config(scheme),
            modules_to_not_convert=_strings(config.get("modules_to_not_convert")),
            overrides={
                name: scheme_from_config(_mapping(f"overrides.{name}", value))
                for name, value in _mapping("overrides", config.get("overrides")).items()
            },
            layers={
                name: _metadata(f"layers.{name}", value)
                for name, value in _mapping("layers", config.get("layers")).items()
            },
            tied=_names("tied", config.get("tied")),
        )


def _wrong_type(name: str, value: object, allowed: str) -> FormatError:
    return FormatError(f"wrong type of '{name}' in quantization_config", found=repr(value), allowed=allowed)


def _strings(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise _wrong_type("modules_to_not_convert", value, "a list of names")
    return tuple(value)


def _mapping(name: str, value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong_type(name, value, "an object")
    return dict(value)


def _metadata(name: str, value: object) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for key, item in _mapping(name, value).items():
        if not isinstance(item, (int, str)) or isinstance(item, bool):
            raise _wrong_type(f"{name}.{key}", item, "an integer or a string")
        found[key] = item
    return found


def _names(name: str, value: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in _mapping(name, value).items():
        if not isinstance(item, str):
            raise _wrong_type(f"{name}.{key}", item, "a module name")
        found[key] = item
    return found
