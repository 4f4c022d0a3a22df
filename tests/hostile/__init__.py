"""Hostile and broken peers against the real receiving process, over real sockets; see docs/decisions/0014."""
