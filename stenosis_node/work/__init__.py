"""The two workers: claim, do, advance. Here the parts meet that do not know each other."""
