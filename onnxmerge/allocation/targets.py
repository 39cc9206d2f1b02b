"""Which widths a target computes without waste.

onnxruntime's CPU kernels work on blocks of channels as wide as a vector register; what lies between
two multiples costs as much as the next one, and widths that are no multiple of 4 leave the blocked
layout altogether. CUDA's tensor cores want multiples of 8, TensorRT's int8 kernels of 32.
"""

from __future__ import annotations

import numpy as np

# Below this no target has kernels that suit; onnxruntime's blocked layout takes no other widths.
NARROWEST = 4
TARGETS = ("cpu", "cuda", "tensorrt")
_FIXED = {"cuda": 8, "tensorrt": 32}


def step_of(target: str) -> int:
    """The multiple that widths should have on a target: ``cpu`` (this one), ``cuda`` or ``tensorrt``."""
    if target in _FIXED:
        return _FIXED[target]
    features = _cpu_features()
    if features.get("AVX512F") and features.get("AVX512BW", True):
        return 16
    if features.get("AVX2") or features.get("NEON") or features.get("ASIMD"):
        return 8
    return 4


def _cpu_features() -> dict[str, bool]:
    """What the processor can do, as numpy found it at run time."""
    core = getattr(np, "_core", None) or np.core
    return dict(getattr(core._multiarray_umath, "__cpu_features__", {}))
