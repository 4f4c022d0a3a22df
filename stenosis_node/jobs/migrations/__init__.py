"""History of the tables; run by ``JobStore.migrate``."""
