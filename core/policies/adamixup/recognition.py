"""Does AdaMixUp's intrusion discriminator tell mixed images from real ones that trained nothing?"""

from __future__ import annotations

import torch
from torch import nn

from core.data import ImageSet, Transform
from core.evaluation import BATCH, evaluating
from core.mixing.batch import mix_inputs
from core.models import ImageClassifier
from core.policies.adamixup.policy import MIXED, REAL, AdaMixUp


def recognition(
    policy: AdaMixUp, model: ImageClassifier, images: ImageSet, transform: Transform
) -> dict[str, float]:
    """discriminator_held_out, in percent: the mean of the shares of real and of mixed images that
    the discriminator recognises; 50 by guessing. Empty without a discriminator.

    Every image is shown as it is, and mixed with the next one of a shuffled order, so that none is
    mixed with itself. (In training partners are shuffled, and on average one pair of a batch is the
    same image twice, which no one can recognise.) Order and λ are drawn from the same numbers each
    time: values differ by the networks alone. These are in evaluation mode, and modes are as before
    on return.

    Args:
        images: two or more.
    """
    if policy.discriminator is None:
        return {}
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    recognised = 0
    with evaluating(nn.ModuleList([model, policy.networks])):
        # Parts of nearly one size: none is a single image.
        for pixels, _ in images.batches(order.tensor_split(-(-len(order) // BATCH))):
            x = transform.evaluate(pixels)
            partner = torch.arange(len(x), device=x.device).roll(-1)
            lam, _ = policy.draw(x, partner, generator)
            for shown, kind in ((x, REAL), (mix_inputs(x, lam, partner), MIXED)):
                told = policy.discriminator(model.features(shown)).argmax(dim=1)
                recognised += int((told == kind).sum())
    return {"discriminator_held_out": 100 * recognised / (2 * len(images))}
