"""The crash and fault suite: real processes, killed and starved; docs/soak.md says what it proves."""
