"""Quality under sparsity: benchmarks of lm-eval, run dense and at several sparsity levels, in one table.

Start with `suite.py`, the loop over tasks and levels. `outcome.py` contains the results and `tables.py` their tables.
`tasks/` loads the tasks, `model/` is the model object that lm-eval drives, `code/` runs generated programs. lm-eval is
optional: no module imports it before it is needed.
"""
