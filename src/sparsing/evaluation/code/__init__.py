"""Generated programs: the sandbox that runs them, and the metric pass@k.

`sandbox.py` starts a process for each program, `confined.py` is the script of that process, and `code_eval.py` is the
metric that lm-eval calls.
"""
