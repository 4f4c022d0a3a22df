"""``python -m stenosis_node`` is ``stenosis-node``."""

from __future__ import annotations

from stenosis_node.cli import main

if __name__ == "__main__":
    main()
