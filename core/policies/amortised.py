"""MetaMixUp with the meta stage at every k-th step, and λ predicted from what it learned between.

The paper's Fig. 7 shows that the learned λ depends on the pair of classes. What a meta stage does
to a λ is therefore kept in a table over class pairs, and applied to the λ of the steps between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.meta.reading import LOGIT_MARGIN
from core.meta.stage import MetaOptions
from core.mixing.batch import Batch, check_batch
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import takes_tokens
from core.mixing.pairing import Pairing
from core.policies.learned import Learned
from core.policies.plain_settings import check_numbers
from core.policies.protocol import Policy, StepInput
from core.policies.stored_state import check_stored
from core.random_streams import stream_device
from core.user_model.precision import wide_dtype
from core.user_model.untraced import untraced

_LEAST_REACH = 0.01

_FADED = 1e-6
"""A pair whose weight is less, as a share of the prior's, is dropped."""


class MoveTable:
    """How far meta stages moved the logit of λ, by the classes of the pair.

    The move Δ of sample i is modelled as `slope·z + T[y_i, y_j] + residual`, z the logit that λ
    would have had unmoved, j the partner. Slope and table are exponentially weighted over meta
    stages; a class pair seen seldom is drawn towards the mean of its kind (same class, or two
    classes). Residuals are those of the last stage: predictions so have the spread of what was
    learned, not only its mean.

    Only pairs that were seen are kept, and those that have faded are dropped, so that time and
    memory depend on the batch and on `memory`, not on the number of classes.

    Args:
        memory: the weight of what was known, against 1 for the newest stage, in [0, 1).
        prior: the weight of the mean of the kind, in samples.
    """

    def __init__(self, memory: float = 0.95, prior: float = 2.0):
        self.memory, self.prior = memory, prior
        self._moments = torch.zeros(5, dtype=torch.float64)  # Σ 1, z, Δ, z², zΔ
        self._pairs = torch.zeros(0, dtype=torch.int64)  # ascending
        self._weight_and_sum = torch.zeros(2, 0, dtype=torch.float64)
        self._kinds = torch.zeros(2, 2, dtype=torch.float64)  # the same, over two classes or one
        self._residuals = torch.zeros(0)

    def learn(self, z: Tensor, move: Tensor, first: Tensor, second: Tensor) -> None:
        """Takes in one meta stage.

        Args:
            z: [B], floating; the logits before learning.
            move: [B], floating; what learning added.
            first, second: [B], int64, in [0, 2³¹); class of each sample and of its partner.
        """
        device, wide = z.device, wide_dtype(z.device)
        z, move = z.to(wide), move.to(wide)
        self._to(device)
        stage = torch.stack([torch.ones_like(z), z, move, z * z, z * move]).sum(dim=1)
        self._moments = self.memory * self._moments + stage
        rest = move - self._slope() * z
        new = torch.stack([torch.ones_like(rest), rest])
        kind = (first == second).long()
        # Nothing in place: a state_dict taken before must not change.
        self._kinds = (self.memory * self._kinds).index_add(1, kind, new)
        pairs, place = torch.cat([self._pairs, _pair(first, second)]).unique(return_inverse=True)
        table = torch.zeros(2, len(pairs), dtype=wide, device=device)
        table.index_add_(1, place, torch.cat([self.memory * self._weight_and_sum, new], dim=1))
        lasting = table[0] > _FADED * self.prior
        self._pairs, self._weight_and_sum = pairs[lasting], table[:, lasting]
        self._residuals = rest - self.expected(first, second)

    @property
    def known(self) -> bool:
        """Returns whether a meta stage was taken in."""
        return len(self._residuals) > 0

    def predict(
        self, z: Tensor, first: Tensor, second: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns a move for each sample, [B], z's dtype: its expectation, and a residual drawn at
        random.

        One draw from the stream, `torch.randint(R, (B,))` on the generator's own device. Classes
        never seen count as their kind.

        Raises:
            RuntimeError: nothing was learned yet.
        """
        if not self.known:
            raise RuntimeError("no meta stage was taken in yet: learn() comes first")
        self._to(z.device)
        source = stream_device(generator)
        drawn = torch.randint(len(self._residuals), z.shape, generator=generator, device=source)
        expected = self._slope() * z.to(wide_dtype(z.device)) + self.expected(first, second)
        return (expected + self._residuals[drawn.to(z.device)]).to(z.dtype)

    def expected(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns T [B], float64: the mean move of each pair of classes beyond `slope·z`."""
        weight, total = self._kinds[:, (first == second).long()]
        mean = total / weight.clamp_min(1e-12)
        if len(self._pairs) == 0:
            return mean
        pair = _pair(first, second)
        place = torch.searchsorted(self._pairs, pair).clamp_max(len(self._pairs) - 1)
        seen = (self._pairs[place] == pair).to(weight.dtype)
        weight, total = self._weight_and_sum[:, place] * seen
        return (total + self.prior * mean) / (weight + self.prior)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns tensors."""
        return {
            "moments": self._moments,
            "pairs": self._pairs,
            "weight_and_sum": self._weight_and_sum,
            "kinds": self._kinds,
            "residuals": self._residuals,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads what `state_dict` gave, or gave when the table was one of all pairs of classes."""
        if "weight" in state:
            table = torch.stack([state["weight"], state["sum"]])
            first, second = state["weight"].nonzero(as_tuple=True)
            same, seen = table.diagonal(dim1=1, dim2=2).sum(1), table[:, first, second]
            kinds = torch.stack([seen.sum(1) - same, same], dim=1)
            state = {
                **state,
                "pairs": _pair(first, second),
                "weight_and_sum": seen,
                "kinds": kinds,
            }
        self._moments, self._pairs = state["moments"], state["pairs"]
        self._weight_and_sum, self._kinds = state["weight_and_sum"], state["kinds"]
        self._residuals = state["residuals"]

    def _slope(self) -> Tensor:
        n, z, move, zz, z_move = self._moments
        # Where all z are alike there is no slope: only rounding is left of either difference.
        spread = zz - z * z / n
        return torch.where(spread > 1e-9 * zz, (z_move - z * move / n) / spread, 0.0)

    def _to(self, device: torch.device) -> None:
        if self._moments.device == device:
            return
        wide = wide_dtype(device)
        state = self.state_dict()
        for name, t in state.items():
            state[name] = t.to(wide if t.is_floating_point() else t.dtype).to(device)
        self.load_state_dict(state)


@dataclass
class Amortised(Policy):
    """Learns at every k-th step, and predicts between by what was learned for the class pair.

    A step between costs what a step of plain MixUp costs, and reads no validation batch. Moves are
    kept and predicted over `Reading.reach`, so that a λ near 0 or 1 is moved as little as learning
    would. With many classes the table needs many samples a pair: below a few, a pair is moved as
    its kind. Classes of soft labels are their largest entries. Belongs to one training.

    Attributes:
        learned: the policy of the steps that learn.
        every: k ≥ 1; the first step learns.
        memory: of the table, see `MoveTable`; half of what it knows fades in log ½ / log memory
            meta stages.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> core.Amortised(core.Learned(), every=4)(model, optimizer, batch, val_batch).lam.shape
        torch.Size([8])
    """

    learned: Learned = field(default_factory=Learned)
    every: int = 16
    memory: float = 0.95
    needs_meta_validation = True

    def __post_init__(self) -> None:
        check_numbers(self, "be at least 1", "every")
        check_numbers(self, "lie in [0, 1)", "memory")
        self._steps = 0
        self._moves = MoveTable(self.memory)

    @untraced
    def interpolate(self, step: StepInput) -> Interpolation:
        """Does as `Learned`; `val_batch` is read at steps that learn, and may be None at the
        others."""
        learns = self._steps % self.every == 0
        if learns:
            given = self.learned(
                *step[:4], generator=step.generator, loss=step.loss, pairing=step.pairing
            )
            if given.change is None:
                raise ValueError("the policy that Amortised wraps must learn")
            if given.hypergradient is None or bool(given.hypergradient.isfinite().all()):
                self._learn(given, _classes(step.batch[1]), step.pairing)
        else:
            given = self._predicted(step.batch, step.generator, step.pairing)
        self._steps += 1
        return given

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "moves": self._moves.state_dict(),
            "learned": self.learned.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, Amortised)
        self.learned.load_state_dict(state["learned"])  # first, as it may refuse
        self._steps = int(state["steps"])
        self._moves.load_state_dict(state["moves"])

    def _learn(self, given: Interpolation, first: Tensor, pairing: Pairing) -> None:
        assert given.change is not None
        unmoved = pairing.share(given.lam - given.change)
        z, reach = _logit(unmoved), self.learned.reading.reach(unmoved)
        # Next to 0 and 1 the quotient is rounding over nothing.
        movable = reach >= reach.max().clamp_max(_LEAST_REACH)
        move = (_logit(pairing.share(given.lam)) - z) / reach
        second = first[given.partner]
        self._moves.learn(z[movable], move[movable], first[movable], second[movable])

    def _predicted(
        self, batch: Batch, generator: torch.Generator | None, pairing: Pairing
    ) -> Interpolation:
        """Returns the draws of a learning step in the same order, and the predicted move in its
        place."""
        check_batch(batch, "training", tokens=takes_tokens(self.learned.mixing))
        learned, (x, y) = self.learned, batch
        reading = learned.reading
        options = MetaOptions(reading, mixing=learned.mixing)
        lam_init, partner, options = options.drawn(x, pairing, generator)
        unmoved = reading.final(reading.start(pairing.share(lam_init)))
        z, first = _logit(unmoved), _classes(y)
        move = torch.zeros_like(z)  # until a stage has learned anything
        if self._moves.known:
            move = self._moves.predict(z, first, first[partner], generator)
            move = move * reading.reach(unmoved)
        lam = pairing.lam(torch.sigmoid(z + move))
        change = lam - pairing.lam(unmoved)
        return Interpolation(lam, partner, lam_init, change=change, mixing=options.mixing)


def _logit(lam: Tensor) -> Tensor:
    return torch.logit(lam, eps=LOGIT_MARGIN)


def _pair(first: Tensor, second: Tensor) -> Tensor:
    return first * 2**31 + second


def _classes(y: Tensor) -> Tensor:
    return y.argmax(dim=1) if y.is_floating_point() else y.long()
