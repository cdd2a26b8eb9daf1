"""A loader of problems that chooses them by how often they are solved."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen, validators

from rftt.learners.distributed import global_sums
from rftt.learners.rollouts.judged import judged_rollouts
from rftt.problems.problem import Problem
from rftt.search.seeding import seed_from
from rftt.search.tree.tree import SearchTree
from rftt.training.loader import BatchLoader

_log = logging.getLogger(__name__)


@frozen
class SolveHistory:
    """What is known of one problem: its last visits, each an update in which rollouts were judged.

    Attributes:
        solved: for each visit, oldest first, how many judged rollouts were solved.
        judged: for each visit, how many there were.
        waited: batches that were loaded since the last visit.
    """

    solved: tuple[float, ...] = ()
    judged: tuple[float, ...] = ()
    waited: int = 0

    @property
    def rate(self) -> float:
        """The expected share of solved rollouts, by Laplace's rule of succession: 1/2 without a visit,
        and never 0 or 1."""
        return (sum(self.solved) + 1) / (sum(self.judged) + 2)


Choose = Callable[[SolveHistory], float]
"""Says how much a problem is wanted: at its turn it is taken with a probability in proportion."""


def uniform(history: SolveHistory) -> float:
    """Want all problems alike."""
    return 1.0


def near_half(history: SolveHistory) -> float:
    """Want problems by ``p (1 - p)``, with ``p`` their rate: the variance of a rollout's outcome, which
    is the expected square of its advantage over the mean of the group (arXiv 2502.12272)."""
    return history.rate * (1 - history.rate)


def unsolved_first(history: SolveHistory) -> float:
    """Want problems by how often they are not solved."""
    return 1 - history.rate


@frozen
class Resting:
    """Lets problems rest that were always or never solved lately, and wants others as ``choose`` does.

    Attributes:
        choose: says how much a problem that does not rest is wanted.
        visits: a problem rests when all rollouts, or none, were solved in so many last visits.
        batches: how many batches it is left out of.
    """

    choose: Choose
    visits: int = field(validator=validators.ge(1))
    batches: int = field(validator=validators.ge(1))

    def __call__(self, history: SolveHistory) -> float:
        solved, judged = history.solved[-self.visits :], history.judged[-self.visits :]
        is_settled = len(judged) == self.visits and sum(solved) in (0, sum(judged))
        return 0.0 if is_settled and history.waited < self.batches else self.choose(history)


class Curriculum(BatchLoader[Problem]):
    """Loads batches of distinct problems, chosen by how often each is solved.

    All problems have their turn once a pass, in an order of seed and pass; one that the batch holds
    already keeps its turn for the next. At its turn a problem is taken or passed over, by the ``choose``
    of its history. So batches are full, and :func:`uniform` takes each problem once a pass. A draw is a
    function of the seed and the number of turns before it, and histories are equal on all processes: so
    are batches.

    Give :meth:`record` every tree that is searched, as by ``Tuner(..., on_trees=curriculum.record)``.

    Args:
        problems: what to choose from.
        batch_size: problems in a global batch.
        updates: the number of batches.
        seed: of orders and draws.
        choose: how much a problem is wanted; a pure function, such as :func:`near_half`.
        min_score: least score of a rollout that counts as solved.
        window: visits that a history goes back. The policy changes, so older ones say less; 4 visits of
            16 rollouts leave a rate a standard error of 1/16 at most.

    Raises:
        ValueError: if two problems have one id, there are fewer than ``batch_size``, or ``updates`` or
            ``window`` is below 1; at a draw, if ``choose`` does not give a number of 0 or more.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        batch_size: int,
        *,
        updates: int,
        seed: int = 0,
        choose: Choose = uniform,
        min_score: float = 1.0,
        window: int = 4,
    ) -> None:
        super().__init__(problems, batch_size, seed=seed)
        if updates < 1 or window < 1:
            raise ValueError(f"updates and window must be 1 or more, not {updates} and {window}")
        if batch_size > len(problems):
            raise ValueError(f"{len(problems)} problems are too few for batches of {batch_size}")
        self._places = {problem.id: place for place, problem in enumerate(problems)}
        if len(self._places) < len(problems):
            ((twice, _),) = Counter(problem.id for problem in problems).most_common(1)
            raise ValueError(f"two problems have the id {twice!r}; ids must be unique")
        self.updates = updates
        self.choose = choose
        self.min_score = min_score
        self.window = window
        # What the state is, besides the position. Problems are numbered by their places.
        self._passes = 0
        self._turns = 0
        self._pending: list[int] = []
        """Problems that still have their turn in a pass, in order."""
        self._drawn: set[int] = set()
        """Problems of the present batch."""
        self._visits: dict[int, deque[tuple[float, float]]] = {}
        """Rollouts solved and judged in each of a problem's last visits."""
        self._last_visit: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of batches of the run, loaded ones too."""
        return self.updates

    def history(self, problem: Problem) -> SolveHistory:
        """Return what is known of a problem."""
        return self._history(self._places[problem.id])

    def refill(self, number: int) -> list[Problem]:
        """Return more problems for the present batch, which it does not hold yet.

        They are fewer than ``number`` only where the batch then holds all problems.
        """
        return [self.items[place] for place in self._draw(number)]

    def _next_batch(self) -> list[Problem]:
        self._drawn.clear()
        return self.refill(self.batch_size)

    def _draw(self, number: int) -> list[int]:
        """Draw problems that the batch does not hold, in order of their turns."""
        # What is wanted of a problem without a visit is asked once: there may be very many.
        unvisited = self.choose(SolveHistory(waited=self.batches))
        wanted = {
            place: self.choose(self._history(place)) if place in self._visits else unvisited
            for place in range(len(self.items))
            if place not in self._drawn
        }
        for place, want in wanted.items():
            if not (math.isfinite(want) and want >= 0):
                raise ValueError(
                    f"choose: problem {self.items[place].id!r} is wanted by {want}; give 0 or more"
                )
        drawn: list[int] = []
        while len(drawn) < number and wanted:
            most = max(wanted.values())
            if most <= 0:
                _log.warning("none of the %d problems left is wanted; any is taken", len(wanted))
                wanted, most = dict.fromkeys(wanted, 1.0), 1.0
            place = self._next_taken(wanted, most)
            del wanted[place]
            drawn.append(place)
        self._drawn.update(drawn)
        return drawn

    def _next_taken(self, wanted: Mapping[int, float], most: float) -> int:
        """Return the first problem that is taken at its turn; one of those wanted most always is."""
        kept = 0
        while True:
            if kept == len(self._pending):
                self._pending += self.order(self._passes)
                self._passes += 1
            place = self._pending[kept]
            if place not in wanted:
                kept += 1
                continue
            del self._pending[kept]
            chance = seed_from(f"{self.seed}/{self._turns}") / 2**63
            self._turns += 1
            if chance * most < wanted[place]:
                return place

    # -- histories --------------------------------------------------------------------------------

    def record(self, trees: Sequence[SearchTree]) -> None:
        """Note how many judged rollouts of each tree's problem were solved.

        With several processes all of them call it, each with its own trees or none. What counts is the
        outcome, the score of a whole solution; rewards of steps say nothing here. A problem without a
        judged rollout keeps the history that it had, and is counted in the log.

        Raises:
            ValueError: on all processes, naming a problem that is none of the curriculum's.
        """
        sums: Counter[str] = Counter()
        for tree, rollouts in zip(trees, judged_rollouts(trees, log=False), strict=True):
            name = tree.problem.id
            sums[f"trees/{name}"] += 1
            sums[f"judged/{name}"] += sum(rollout.count for rollout in rollouts)
            sums[f"solved/{name}"] += sum(r.count for r in rollouts if r.score >= self.min_score)
        found = global_sums({name: float(number) for name, number in sums.items()})
        kinds: Counter[str] = Counter()
        for name in sorted(name.removeprefix("trees/") for name in found if name.startswith("trees/")):
            if (place := self._places.get(name)) is None:
                raise ValueError(f"problem {name!r} is not one of the curriculum's {len(self.items)}")
            solved, judged = found[f"solved/{name}"], found[f"judged/{name}"]
            if not judged:
                kinds["unknown"] += 1
                continue
            kinds["never" if not solved else "always" if solved == judged else "sometimes"] += 1
            self._visits.setdefault(place, deque(maxlen=self.window)).append((solved, judged))
            self._last_visit[place] = self.batches
        _log.info(
            "%d problems: solved always %d, sometimes %d, never %d; without a judged rollout %d",
            kinds.total(), kinds["always"], kinds["sometimes"], kinds["never"], kinds["unknown"],
        )  # fmt: skip

    def _history(self, place: int) -> SolveHistory:
        visits = self._visits.get(place, ())
        return SolveHistory(
            tuple(solved for solved, _ in visits),
            tuple(judged for _, judged in visits),
            self.batches - self._last_visit.get(place, 0),
        )

    # -- resuming ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return position and histories, and the settings they belong to, as JSON-able data."""
        return super().state_dict() | {
            "passes": self._passes,
            "turns": self._turns,
            "pending": list(self._pending),
            "drawn": sorted(self._drawn),
            "visits": [[place, [list(v) for v in visits]] for place, visits in self._visits.items()],
            "last_visit": [list(item) for item in self._last_visit.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. ``choose`` and ``updates`` may be others.

        Raises:
            ValueError: naming the first difference, if it was saved with other problems or settings.
        """
        super().load_state_dict(state)
        self._passes, self._turns = state["passes"], state["turns"]
        self._pending, self._drawn = list(state["pending"]), set(state["drawn"])
        self._visits = {
            place: deque([(solved, judged) for solved, judged in visits], self.window)
            for place, visits in state["visits"]
        }
        self._last_visit = dict(state["last_visit"])

    def _settings(self) -> dict[str, Any]:
        ids = "\n".join(problem.id for problem in self.items)
        return super()._settings() | {
            "ids of problems (digest)": hashlib.blake2b(ids.encode(), digest_size=8).hexdigest(),
            "min_score": self.min_score,
            "window": self.window,
        }
