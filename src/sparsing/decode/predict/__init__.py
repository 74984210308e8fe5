"""Predictors of the active set: quantised copies of the gate, low-rank predictors, and what their errors cost."""
