"""Trained runs as networks, with weights as trained and as a bundle stores them, measured on the same slices."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from torch import nn

from stenosis_node.grading.bundle import Networks, load_weights, save_weights
from stenosis_node.grading.manifest import TrainingData, sha256_of
from training.evaluate import figures, held_out_slices, run_chain
from training.export import draft
from training.phantom import GENERATOR_VERSION
from training.recipes import RECIPES, Stage
from training.tasks import task_of
from training.train import CHECKPOINT_NAME, load_trained

_COMPARED: Final = (
    ("locate", "recall_iou_0.5"),
    ("locate", "mean_iou"),
    ("content_true_box", "accuracy"),
    ("grade_true_box", "macro_f1"),
    ("end_to_end", "content_accuracy"),
    ("end_to_end", "macro_f1"),
)


def load_runs(runs: Mapping[Stage, Path]) -> tuple[Networks, TrainingData]:
    """Networks of three runs, and what they have seen. Raises TrainingError for a run without a checkpoint."""
    networks: dict[Stage, Any] = {}
    seen: dict[Stage, int] = {}
    for stage, folder in runs.items():
        networks[stage] = task_of(stage).network()
        seen[stage] = load_trained(networks[stage], folder / CHECKPOINT_NAME, stage)
        networks[stage].eval()
    seeds = ", ".join(f"{stage} from seed {RECIPES[stage].first_seed}" for stage in runs)
    data = TrainingData(
        id=f"phantom-generator-{GENERATOR_VERSION}",
        description=f"synthetic slices, each seen once ({seeds}); no real image",
        slices=sum(seen.values()),
    )
    return Networks(networks[Stage.LOCATE], networks[Stage.CLASSIFY], networks[Stage.GRADE]), data


def checkpoint_digests(runs: Mapping[Stage, Path]) -> dict[str, str]:
    """sha256 of each run's checkpoint: binds figures to the weights they were measured on."""
    return {str(stage): sha256_of(folder / CHECKPOINT_NAME) for stage, folder in runs.items()}


def measure(runs: Mapping[Stage, Path], slices: int) -> dict[str, Any]:
    """Figures of the chain with stored (int8) weights, and the main ones with the weights as trained beside them."""
    networks, data = load_runs(runs)
    manifest = draft("measured", "0", data, {})
    drawn = held_out_slices(slices)
    trained = figures(run_chain(networks, manifest, drawn))
    stored = figures(run_chain(as_stored(networks), manifest, drawn))
    return {
        "checkpoints": checkpoint_digests(runs),
        "figures": {
            **stored,
            "int8_storage": {
                f"{part} {name}": {"int8": stored[part][name], "fp32": trained[part][name]} for part, name in _COMPARED
            },
        },
    }


def as_stored(networks: Networks) -> Networks:
    """The networks after a round trip through a bundle's files."""
    return Networks(*(_round_trip(network) for network in (networks.locate, networks.classify, networks.grade)))


def _round_trip(network: Any) -> Any:
    copy: nn.Module = deepcopy(network)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(network, path)
        load_weights(copy, path)
    return copy
