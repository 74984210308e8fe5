"""The model that lm-eval drives: thresholds applied, activations counted, one or several processes."""
