"""Entry point of `python -m sparsing.calc_activation`; the code is in `sparsing.reference.calc_activation`."""

import sys

from sparsing.reference.calc_activation import main

if __name__ == "__main__":
    sys.exit(main())
