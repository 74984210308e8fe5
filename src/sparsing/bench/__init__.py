"""Benchmarks of decoding speed: dense engines against the sparse kernels, for one block and for a whole model.

Start with `block_bench.bench_blocks` and `model_bench.bench_planted_models`; `sparsing bench` calls both.
"""
