"""Trains, evaluates and exports the three networks of stenosis-node. Imports the node, never the reverse."""

import stenosis_node.grading  # noqa: F401  before torch: how its threads wait
