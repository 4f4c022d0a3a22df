"""``make demo``: the main job on this machine, from a study that a PACS routes to the report that the PACS holds."""
