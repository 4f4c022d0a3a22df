"""Entry of the processes that the supervisor starts; see :mod:`stenosis_node.node.child`."""

from __future__ import annotations

import sys

from stenosis_node.node.child import main

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
