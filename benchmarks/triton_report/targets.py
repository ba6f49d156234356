"""What the kernels are compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    name: str
    backend: str  # of Triton
    architecture: int | str
    lanes: int  # of a warp

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, of NVIDIA's."""
        assert isinstance(self.architecture, int)
        return divmod(self.architecture, 10)


NVIDIA = tuple(Target(f"sm_{number}", "cuda", number, 32) for number in (80, 86, 89, 90, 100, 120))
# Compiled for information: the backend takes 8.0 and newer.
TOO_OLD = Target("sm_75", "cuda", 75, 32)
# MI300. No kernel has ever run on an AMD GPU.
AMD = Target("gfx942", "hip", "gfx942", 64)
