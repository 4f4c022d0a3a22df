"""Labels of slices: one manifest for all sources (docs/labels.md)."""
