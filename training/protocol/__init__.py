"""The protocol of a study: folds, chains, runs that go on after a kill, predictions of what was held out."""
