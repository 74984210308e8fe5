"""Benchmark tasks: the paper's fourteen, their definitions in lm-eval, and their items from local files."""
