"""Operations of GLASS-style generative recommenders; usable alone with nothing but torch.

Every op takes `backend=None` (the best available) or a name of `glass_kernels.backend.BACKENDS`.
"""

from glass_kernels.backend import BACKENDS, use_backend
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments, pad_to_jagged

__version__ = "0.1.0"

__all__ = [
    "BACKENDS",
    "lengths_to_offsets",
    "offsets_to_segments",
    "pad_to_jagged",
    "use_backend",
]
