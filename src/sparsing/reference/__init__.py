"""Drop-in replacements for the command lines of the reference code (thunlp/SparsingLaw)."""
