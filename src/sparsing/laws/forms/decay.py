"""The SiLU law turned over: a convergent decreasing power law, the plainest rival of the ReLU law that has a limit."""

from __future__ import annotations

from sparsing.laws.form import register_form
from sparsing.laws.forms.silu import SiluLaw


@register_form
class DecayLaw(SiluLaw):
    """Falls to `A0`."""

    name = "decay"
    title = "falling power law"
    equation = "A(D) = A0 + c * D**(-alpha)"
    sign = 1.0
