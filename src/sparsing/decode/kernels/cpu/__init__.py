"""Kernels for CPUs, written in Numba (extra `cpu`): `pip install 'sparsing[cpu]'`.

`block.py` is the interface; `block_kernel.py` is the kernel; `rows.py`, `row_vectors.py` and `codes.py` are its loops;
`llvm.py` has what the loops written in LLVM code share.
"""
