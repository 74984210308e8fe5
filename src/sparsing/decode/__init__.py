"""From thresholds to faster decoding: packed weights, a predictor of the active set, kernels, and what they buy."""
