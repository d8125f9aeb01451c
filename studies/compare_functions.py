"""Training code of one's own compared over seeds by `hpo.compare`: scikit-learn and plain torch.

Is a small network better than logistic regression on digits, and by how much? The same command
goes on after an interruption, and with more seeds.

    python studies/compare_functions.py --seeds 10
    python studies/compare_functions.py --until 0.3        # seeds until ± 0.3 points
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import hpo
from hpo.command_line.flags import command, program
from hpo.command_line.statuses import INTERRUPTED, UNUSABLE

if TYPE_CHECKING:
    import numpy as np

Report = Callable[..., None]


def data(seed: int) -> list[np.ndarray]:
    """Returns train and test images, train and test labels: another split for each seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts: list[np.ndarray] = train_test_split(x / 16, y, test_size=0.5, random_state=seed)
    return parts


def logistic_regression(seed: int, report: Report) -> float:
    """Returns the test error in percent."""
    from sklearn.linear_model import LogisticRegression

    x, x_test, y, y_test = data(seed)
    predicted = LogisticRegression(max_iter=500).fit(x, y).predict(x_test)
    return float(100 * (predicted != y_test).mean())


def network(seed: int, report: Report) -> float:
    """Returns the test error in percent; reports the loss of each epoch."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    x, x_test, y, y_test = (torch.from_numpy(part) for part in data(seed))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        for rows in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[rows].float()), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(train_loss=float(loss.detach()))
    with torch.no_grad():
        return float(100 * (model(x_test.float()).argmax(1) != y_test).float().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares and prints."""
    parser = command(program("compare_functions"), __doc__)
    parser.add_argument("--seeds", type=int, default=10, help="of the first look (default: 10)")
    parser.add_argument("--until", type=float, help="add seeds until the interval is ± this")
    parser.add_argument("--workers", type=int, help="trials at a time; 0 without Ray")
    parser.add_argument("--output", default="results/compare", help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    functions = {"network": network, "logistic regression": logistic_regression}
    try:
        print(hpo.compare(functions, **options))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"compare_functions: error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("compare_functions: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
