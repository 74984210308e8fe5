"""`python -m sparsing` is the `sparsing` command."""

import sys

from sparsing.cli import main

sys.exit(main())
