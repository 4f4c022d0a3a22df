"""The three stages of Won et al. 2025: locate the canal, tell rootlets from cord, grade the rootlet slices.

Nothing is imported here: ``manifest`` works without torch, ``pipeline`` is for the grading process alone.
"""
