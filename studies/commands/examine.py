"""Tries a network with a data set: which engines learn λ with it, what they cost, what to look at.

`core.examine` takes one dry step with a batch of real images. Nothing is trained or stored. The
network, the data set and all settings are given as to a study.

    metamixup examine --model torchvision:resnet18 --dataset digits
    metamixup examine --model my_net:build --dataset folder:IMAGES --images 32
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpo.command_line.flags import command, program, shared
from hpo.command_line.settings import add_settings
from hpo.study.presets import PRESETS


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns the exit status."""
    parser = command(
        program("examine"),
        __doc__,
        shared(
            dataset={"action": "store", "default": "digits", "help": "as of a study"},
            preset={"choices": PRESETS},
            data_root={},
        ),
    )
    text = "images of each batch of the dry step (default: 8; a few say as much as many)"
    parser.add_argument("--images", type=int, default=8, metavar="N", help=text)
    add_settings(parser)
    options = parser.parse_args(arguments)
    from hpo.command_line.examination import examined  # torch

    try:
        print(examined(options))
    except (ValueError, OSError) as error:
        print(f"examine: error: {error}", file=sys.stderr)
        return 2
    return 0
