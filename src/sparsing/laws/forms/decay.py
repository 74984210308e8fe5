"""A falling power law with a limit: the SiLU law with the opposite sign, and the simplest rival of the ReLU law."""

from __future__ import annotations

from sparsing.laws.form import register_form
from sparsing.laws.forms.silu import SiluLaw


@register_form
class DecayLaw(SiluLaw):
    """Falls to the limit `A0`."""

    name = "decay"
    title = "falling power law"
    equation = "A(D) = A0 + c * D**(-alpha)"
    sign = 1.0
