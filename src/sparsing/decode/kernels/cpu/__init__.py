"""Kernels for CPUs, in Numba (extra `cpu`): `pip install 'sparsing[cpu]'`."""
