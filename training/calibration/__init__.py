"""How scores become calls: fitted on validation slices, used on slices that no fit has seen."""
