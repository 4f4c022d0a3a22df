"""The three stages of Won et al. 2025: locate the canal, tell rootlets from cord, grade the rootlet slices.

Nothing is imported here: ``manifest`` works without torch, ``pipeline`` is for the grading process alone.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # which would count for nothing beside it
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
"""Threads of torch that wait for each other give their processor away soon (libgomp, read when torch is loaded).

By default they turn round in circles for milliseconds, which is 3 % faster on an idle machine. Where another program
needs a processor it makes grading slower than with a single thread; docs/performance.md has the figures.
"""
