"""The long fuzz: ``python -m tests.hostile --cases 100000 --seed 1``.

The same seed and numbers make the same cases. Runs both paths of reception, one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.campaign import Broken, Campaign
from tests.hostile.decoding import fuzz_decoding
from tests.hostile.target import Target


def say(text: str) -> None:
    """How far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Exit code 1 when something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=int(os.environ.get("STENOSIS_NODE_FUZZ", "100000")))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case (to replay some)")
    parser.add_argument("--every", type=int, default=500, help="cases in a round")
    path = parser.add_mutually_exclusive_group()
    path.add_argument("--stock", action="store_true", help="only with receive.fast_path = false")
    path.add_argument("--fast", action="store_true", help="only with receive.fast_path = true")
    path.add_argument("--decoding", action="store_true", help="only reading and decoding of received files")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    ok = True
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        for fast in (True, False):
            if options.decoding or (options.stock and fast) or (options.fast and not fast):
                continue
            target = Target(Path(folder) / ("fast" if fast else "stock"), fast_path=fast).start()
            campaign = Campaign(target, options.seed)
            try:
                campaign.run(options.first, options.cases, every=options.every, say=say)
            except Broken as broken:
                ok = False
                print(broken, file=sys.stderr)
            finally:
                print(f"fast_path = {fast}: {campaign.tally}", flush=True)
                target.stop()
        if options.decoding or not (options.stock or options.fast):
            text, fine = fuzz_decoding(options.seed, options.first, options.cases, every=10_000)
            ok = ok and fine
            print(f"decoding: {text}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
