"""Explorers for JupyterLab and Voila: ipywidgets over scores and latents that are already computed."""

from clad_lib.widgets.builder import ScenarioBuilder
from clad_lib.widgets.latent import LatentExplorer, latent_explorer
from clad_lib.widgets.monitor import TrainingMonitor
from clad_lib.widgets.threshold import ThresholdExplorer, threshold_explorer

__all__ = [
    "LatentExplorer", "ScenarioBuilder", "ThresholdExplorer", "TrainingMonitor", "latent_explorer", "threshold_explorer",
]  # fmt: skip
