"""What MLflow keeps of a training's λ beside its metrics: histograms, intrusion, class-pair maps.

The UI draws a metric over its step. A histogram is therefore a metric whose step is λ in percent,
and the histograms of two runs lie over each other in one chart; maps are images with the epoch as
step, and lie side by side in an image grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.training.result import TrainingResult
from hpo.cells.result import Result

Series = Mapping[str, list[tuple[int, float]]]
"""Values of a metric by step."""

MAP_KEY = "lam_by_class_pair"
"""Name of the images of maps."""

_PIXELS = 480


def series_of(result: Result) -> Series:
    """Returns metrics over steps of their own.

    lam_density, lam_density_first: of the last and the first epoch, the density of λ (1 is
    uniform) at the middle of each bin, in percent. lam_pair_spread: standard deviation of mean λ
    over pairs of classes, by epoch, where it was recorded.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for name, histogram in (
        ("lam_density", getattr(result, "lam_histogram", None)),
        ("lam_density_first", getattr(result, "lam_histogram_first", None)),
    ):
        if histogram and sum(histogram):
            bins, total = len(histogram), sum(histogram)
            series[name] = [
                (int(100 * (at + 0.5) / bins), bins * count / total)
                for at, count in enumerate(histogram)
            ]
    maps = maps_of(result)
    if maps:
        series["lam_pair_spread"] = [(epoch, float(np.nanstd(lam))) for epoch, lam in maps.items()]
    return series


def numbers_of(result: Result) -> dict[str, float]:
    """Returns the distances of an analyzed training: intrusion_mean, intrusion_minimum, …"""
    distances = result.analysis.intrusion if isinstance(result, TrainingResult) else {}
    return {f"intrusion_{name}": value for name, value in distances.items()}


def maps_of(result: Result) -> dict[int, np.ndarray]:
    """Returns mean λ by classes [C, C] of each epoch that recorded it; NaN: no such pair."""
    if not isinstance(result, TrainingResult):
        return {}
    recorded = zip(result.analysis.pair_epochs, result.analysis.pair_lam, strict=True)
    return {epoch: np.array(lam, dtype=float) for epoch, lam in recorded}  # None becomes NaN


def send_map(client: Any, run_id: str, epoch: int, lam: np.ndarray) -> None:
    """Logs the picture of λ by classes [C, C], unless the run has one of this epoch."""
    # As MLflow names them, later and earlier versions.
    starts = tuple(f"images/{MAP_KEY}{mark}step{mark}{epoch}{mark}" for mark in "+%")
    files = client.list_artifacts(run_id, "images")
    if not any(file.path.startswith(starts) for file in files):
        client.log_image(run_id, map_image(lam), key=MAP_KEY, step=epoch, synchronous=True)


def map_image(lam: np.ndarray) -> np.ndarray:
    """Returns a map as a picture, uint8 [H, H, 3]: from brown at λ = 0 over white to violet at 1.

    The scale is the same for all, so that pictures can be compared; a pair that never came up is
    grey. Rows and columns are the classes in order, without names.
    """
    from matplotlib import colormaps

    shown = colormaps["PuOr"].with_extremes(bad="#8C8C8C")(np.ma.masked_invalid(lam), bytes=True)
    side = max(1, _PIXELS // len(lam))
    return np.asarray(shown)[:, :, :3].repeat(side, axis=0).repeat(side, axis=1)
