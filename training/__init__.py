"""Trains, evaluates and exports the three networks of stenosis-node. Imports the node, never the reverse."""
