"""This module tries a network with a data set, as they are named on a command line."""

from __future__ import annotations

from argparse import Namespace

import torch

from core.data import load_source
from core.meta.examination import Examination, examine
from core.training.network import build_network
from core.training.optimizers import build_optimizer
from core.training.prepared_data import prepare_data
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
    model = build_network(training, source).train()
    data = prepare_data(training, source, "cpu")
    batches = []
    for part in (data.train, data.meta):
        rows = torch.randperm(len(part), generator=generator)[: args.images]
        [(x, y)] = part.batches([rows])
        batches.append((data.transform.train(x, generator), y))
    first, second = batches
    return examine(model, first, second, optimizer=build_optimizer(training, model))
