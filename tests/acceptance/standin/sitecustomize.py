"""On PYTHONPATH of a node under test: its grading process loads the pipeline beside this file, which needs no torch.

A process that is killed thousands of times must start fast. Everything else of the node is the real thing.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path


class StandIn:
    """Finds one module elsewhere."""

    def find_spec(self, name, path=None, target=None):
        if name != "stenosis_node.grading.pipeline":
            return None
        return importlib.util.spec_from_file_location(name, Path(__file__).with_name("pipeline.py"))


class Hasty:
    """A supervisor that starts dead children again after ``STENOSIS_SOAK_LONGEST_DELAY_S`` at the latest."""

    def find_spec(self, name, path=None, target=None):
        if name != "stenosis_node.node.supervisor":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.LONGEST_DELAY_S = float(os.environ["STENOSIS_SOAK_LONGEST_DELAY_S"])

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, StandIn())
if "STENOSIS_SOAK_LONGEST_DELAY_S" in os.environ:
    sys.meta_path.insert(0, Hasty())
