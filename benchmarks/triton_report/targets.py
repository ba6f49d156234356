"""What the kernels are compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    name: str
    backend: str  # of Triton
    architecture: int | str
    lanes: int  # of a warp
    shared: int  # bytes that a block may have

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, of NVIDIA's."""
        assert isinstance(self.architecture, int)
        return divmod(self.architecture, 10)


_SHARED_KB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
NVIDIA = tuple(Target(f"sm_{number}", "cuda", number, 32, kb << 10) for number, kb in _SHARED_KB.items())
# Compiled to tell what is refused: the backend takes 8.0 and newer.
TOO_OLD = Target("sm_75", "cuda", 75, 32, 64 << 10)
# MI300. No kernel has ever run on an AMD GPU.
AMD = Target("gfx942", "hip", "gfx942", 64, 64 << 10)
