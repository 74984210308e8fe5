"""Benchmark tasks: the paper's fourteen, how they are loaded from lm-eval, and their items from local files.

Start with `paper_tasks.py`, which lists the tasks, and `loading.py`, which makes them ready to run.
"""
