"""Drop-in replacements for the command lines of the reference code (thunlp/SparsingLaw).

`calc_activation.py` measures like the reference's script of that name. `eval_entrance.py` replaces its evaluation
script, `ultra_eval.py` writes the reference's folder of results, and `environment.py` reads its environment variables.
"""
