"""Kernels for CUDA GPUs, written in Triton (extra `gpu`): `pip install 'sparsing[gpu]'`.

`block.py` is the interface, `launches.py` lists the kernels of a call, and `passes.py` has the kernels.
"""
