"""The verification step in Triton kernels, for a CUDA device; needs `triton`, which exists on Linux only."""

from decoding.verification.kernels.steps import verify_ratio

__all__ = ["verify_ratio"]
