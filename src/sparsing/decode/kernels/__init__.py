"""Kernels for sparse feed-forward blocks: weight layouts, a plain PyTorch reference, Numba for CPUs, Triton for GPUs."""
