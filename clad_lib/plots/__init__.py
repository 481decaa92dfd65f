"""Figures: arrays in, a plotly Figure out, all with one template; `write_figure` and `show` bring them to readers."""

from clad_lib.plots.clusters import cluster_health, cluster_matrix, confidence_histograms
from clad_lib.plots.curves import ablation_lines, loss_curves, roc_curves
from clad_lib.plots.diagram import four_stages
from clad_lib.plots.files import Picture, find_browser, png_bytes, show, write_figure
from clad_lib.plots.guarantees import false_alarm_curve, guarantee_check
from clad_lib.plots.images import class_grid, extreme_images, image_rows, reconstructions
from clad_lib.plots.latent import latent_scatter, two_boundaries
from clad_lib.plots.scores import score_histogram
from clad_lib.plots.tables import auroc_bars, results_table, waterfall
from clad_lib.plots.theme import ANOMALOUS, NORMAL, PALETTE, TEMPLATE, alt_text
from clad_lib.plots.threshold import threshold_point, threshold_traces, threshold_view

__all__ = [
    "ANOMALOUS", "NORMAL", "PALETTE", "TEMPLATE", "Picture", "ablation_lines", "alt_text", "auroc_bars", "class_grid",
    "cluster_health", "cluster_matrix", "confidence_histograms", "extreme_images", "false_alarm_curve", "find_browser",
    "four_stages", "guarantee_check", "image_rows", "latent_scatter", "loss_curves", "png_bytes", "reconstructions",
    "results_table", "roc_curves", "score_histogram", "show", "threshold_point", "threshold_traces", "threshold_view",
    "two_boundaries", "waterfall", "write_figure",
]  # fmt: skip
