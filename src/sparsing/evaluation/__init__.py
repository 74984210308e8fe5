"""Quality under sparsity: the unforked lm-eval harness run dense and at several levels, and the table of both.

`harness.py` is the adapter, `tasks.py` the paper's fourteen tasks, `local_data.py` their items from files,
`suite.py` the loop over tasks and levels. lm-eval is optional: nothing here imports it before it is needed.
"""
