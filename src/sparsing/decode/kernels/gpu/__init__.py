"""Kernels for CUDA GPUs, in Triton (extra `gpu`): `pip install 'sparsing[gpu]'`."""
