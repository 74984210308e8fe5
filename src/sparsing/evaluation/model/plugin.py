"""Makes lm-eval know this package's model by the name `sparsing`. Importing this module is all that is needed.

lm-eval 0.4.13 reads no entry points, so somebody has to import the model before lm-eval looks it up. The command
`sparsing lm-eval` does so. A program that calls lm-eval itself needs one line:

    import sparsing.evaluation.model.plugin

Without lm-eval the import does nothing.
"""

from sparsing.evaluation.model.lm_eval_internals import is_installed, register_model

if is_installed():
    register_model("sparsing", "sparsing.evaluation.model.harness:SparsingLM")
