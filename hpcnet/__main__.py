# SPDX-License-Identifier: Apache-2.0
"""``python -m hpcnet``: the hpcnet command."""

import sys

from hpcnet.cli.main import main

sys.exit(main())
