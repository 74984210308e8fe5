"""General parts that every other package uses and that know no other package.

Start with `results.py` (saving and loading), then `provenance.py` (where a result comes from). `registry.py` finds
things by name, `lazy.py` delays imports, `progress.py` draws progress bars.
"""
