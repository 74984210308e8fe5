"""Kernels for one sparse feed-forward block: weight layouts, a plain PyTorch reference, Numba (CPU), Triton (GPU).

Start reading at `dispatch.py`, which chooses the kernels of a device, and at `interface.py`, which all kernels
implement. `plain.py` defines what all of them compute.
"""
