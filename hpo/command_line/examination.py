"""This module tries a network with a data set, as they are named on a command line."""

from __future__ import annotations

from argparse import Namespace

import torch

from core.data import load_source
from core.meta.examination import Examination, examine
from core.random_streams import seeded
from core.training.network import build_network, check_passes
from core.training.objective import Objective
from core.training.optimizers import build_optimizer
from core.training.prepared_data import prepare_data
from core.training.recipe import check_recipe
from hpo.command_line.flags import require_counts
from hpo.command_line.settings import given_settings, with_settings
from hpo.study import presets


def examined(args: Namespace) -> Examination:
    """Returns what one dry step with real images says of the network, on the CPU.

    Args:
        args: `dataset`, `preset`, `data_root`, `images` (of each batch), and settings of a
            training.

    Raises:
        ValueError: the network, the data or a setting cannot be used.
    """
    require_counts(args, "images")
    given = given_settings(args)
    training = presets.training(args.dataset, args.preset)
    size = given.get("image_size", training.image_size)
    source = load_source(args.dataset, root=args.data_root, image_size=size)
    training = with_settings(presets.fit_to(training, source), given)
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    if ":" in training.model:
        with seeded(training.seed):
            check_passes(training.model, build_network(training, source), source)
    model = build_network(training, source).train()
    check_recipe(training, source, model)
    data = prepare_data(training, source, "cpu")
    objective = Objective(training, data.train.labels, source.num_classes, torch.device("cpu"))
    batches = []
    for part in (data.meta, data.train):
        rows = torch.randperm(len(part), generator=generator)[: args.images]
        [(x, y)] = part.batches([rows])
        batches.append((data.transform.train(x, generator), y))
    second, first = batches
    loss = objective.loss(model, first[0], rows)
    return examine(model, first, second, optimizer=build_optimizer(training, model), loss=loss)
