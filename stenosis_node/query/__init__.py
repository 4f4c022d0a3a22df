"""Asking a peer what it knows of a study, and fetching what we lack: C-FIND, C-GET and C-MOVE."""
