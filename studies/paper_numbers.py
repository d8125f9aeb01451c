"""The paper's errors with few labels, in percent, which Tables III, IV and V share."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS = (("cifar10", 1000), ("cifar10", 4000), ("svhn", 500), ("svhn", 1000))
"""Data set and number of labels of the columns of Tables III and IV."""

_TABLES_3_AND_4: Mapping[str, tuple[float | None, ...]] = {
    "supervised-only": (35.95, 20.34, 17.71, 12.93),
    "pseudo-label": (25.13, 17.73, 9.91, 7.82),
    "apl": (24.36, 16.96, 8.68, 7.46),
    "pi-model": (24.81, 16.37, 8.82, 7.19),
    "mean-teacher": (23.38, 15.87, 8.01, 5.65),
    "vat": (21.52, 13.86, 6.21, 5.63),
    "vat-em": (21.28, 13.13, 6.14, 5.35),
    "mixup-pseudo-label": (23.47, 15.04, 7.42, 6.42),
    "mixup-apl": (22.85, 14.79, 6.73, 6.37),
    "metamixup-pseudo-label": (21.29, 12.64, 6.18, 6.17),
    "metamixup-apl": (20.66, 11.50, 6.05, 5.34),
    "mixmatch-no-mixup": (None, 10.97, None, 4.89),
    "mixmatch": (7.87, 6.42, 3.79, 3.32),
    "mixmatch-metamixup": (7.69, 6.21, 3.63, 3.25),
}

_TABLE_5 = {
    "apl-0.01": (None, 11.84, None, 5.94),
    "apl-0.05": (None, 11.50, None, 5.34),
    "apl-0.1": (None, 11.22, None, 5.55),
    "apl-0.2": (None, 11.98, None, 5.67),
}

FEW_LABELS: Mapping[str, Mapping[tuple[str, int], float]] = {
    key: {column: error for column, error in zip(COLUMNS, errors, strict=True) if error is not None}
    for key, errors in {**_TABLES_3_AND_4, **_TABLE_5}.items()
}
"""By the key of a row, its errors by data set and number of labels."""
