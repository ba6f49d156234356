"""The GPUs that tiles are chosen for: those of cuda_report, whose assumptions hold here too, and others."""

from __future__ import annotations

from cuda_report import gpus
from cuda_report.gpus import Gpu

# Data sheets, as in cuda_report; bandwidth of L2 and latency are assumed, by the likeness of the others.
_MORE = (
    Gpu("RTX 3090", 80, 86, 82, 1.695, 936, 6, 2500, 48, 16, 100, 1024, 8192, 256, 71, 64, 500),
    Gpu("A10", 80, 86, 72, 1.695, 600, 6, 2200, 48, 16, 100, 1024, 8192, 512, 125, 64, 500),
    Gpu("L4", 80, 89, 58, 2.040, 300, 48, 2000, 48, 24, 100, 1024, 8192, 512, 121, 64, 500),
    Gpu("L40S", 80, 89, 142, 2.520, 864, 96, 5000, 48, 24, 100, 1024, 8192, 512, 362, 64, 500),
)
GPUS: tuple[Gpu, ...] = (*gpus.GPUS, *_MORE)
