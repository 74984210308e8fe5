"""Predictors of the active neurons: made from a sample of inputs, judged on other tokens and by their perplexity.

Start reading at `predictor.py`. `quantised.py` is the predictor that the kernels read; `low_rank.py` is a learned
predictor for comparison.
"""
