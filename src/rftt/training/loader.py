"""A data loader that yields global batches and can be resumed at any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, Generic, TypeVar

from rftt.fingerprint import difference

Item = TypeVar("Item")


class BatchLoader(Generic[Item]):
    """Loads global batches of items, such as problems or annotated solutions.

    Every process gets the same lists, and each takes its own part, ``batch[rank::world_size]``: nothing
    is padded or repeated, and as this is no torch ``DataLoader``, Lightning puts no sampler of its own
    into it. Each epoch holds every item once; its last batch may be short.

    One loader holds all epochs of a run, and Lightning's ``Trainer`` gets ``max_epochs=1``: a run that
    is killed near an end of one of Lightning's own epochs, and once more after it was resumed, repeats
    or skips batches (2.6.6), whatever the loader does.

    The loader has a position, which only moves forward: a new ``iter()`` goes on where the last one was
    left. A batch is a function of the position and of the arguments below, so the position is all that
    there is to save. Lightning saves it in each checkpoint and restores it, except where
    ``Trainer.estimated_stepping_batches`` was read before, as schedules do (2.6.6); so
    :class:`~rftt.training.tuner.Tuner` saves and restores it too.

    Args:
        items: what to learn from.
        batch_size: items in a global batch.
        epochs: how often each item is loaded.
        seed: of the orders.
        shuffle: whether each epoch has an order of its own, a function of seed and epoch; else it is
            that of ``items``.
        drop_last: whether a short last batch of an epoch is left out.

    Attributes:
        batches: the position, the number of batches that were loaded so far.

    Raises:
        ValueError: if there is no batch in an epoch, or no epoch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        batch_size: int,
        *,
        epochs: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1 or epochs < 1:
            raise ValueError(f"batch_size and epochs must be 1 or more, not {batch_size} and {epochs}")
        if not items or (drop_last and len(items) < batch_size):
            raise ValueError(
                f"{len(items)} items in batches of {batch_size} with drop_last={drop_last} are no "
                "batch: give more items or a smaller batch_size"
            )
        self.items = items
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.batches = 0
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches that hold each item once."""
        whole, rest = divmod(len(self.items), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        """Return the number of batches of all epochs, loaded ones too."""
        return self.epochs * self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches from the position to the end of the last epoch."""
        while self.batches < len(self):
            batch = self._next_batch()
            # Before the batch is worked on, so that a checkpoint made after that work counts it.
            self.batches += 1
            yield batch

    def _next_batch(self) -> list[Item]:
        epoch, number = divmod(self.batches, self.batches_per_epoch)
        start = number * self.batch_size
        return [self.items[place] for place in self.order(epoch)[start : start + self.batch_size]]

    def order(self, epoch: int) -> list[int]:
        """Return the places of the items in the order of an epoch."""
        if self._order[0] != epoch:
            places = list(range(len(self.items)))
            if self.shuffle:
                Random(f"{self.seed}/{epoch}").shuffle(places)
            self._order = (epoch, places)
        return self._order[1]

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the settings that it belongs to, as JSON-able data."""
        return {"batches": self.batches, "settings": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position. The number of epochs may be another one than it was.

        Raises:
            ValueError: naming the first difference, if the position was saved by a loader with another
                number of items or other settings: its epoch could not be completed.
        """
        if found := difference(state["settings"], self._settings()):
            raise ValueError(
                f"{type(self).__name__}: {found}; resume with the items and settings of the checkpoint, "
                "or start without it"
            )
        self.batches = state["batches"]

    def _settings(self) -> dict[str, Any]:
        return {
            "items": len(self.items),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    @property
    def sampler(self) -> BatchLoader[Item]:
        """Where Lightning finds :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Refuse a second epoch of Lightning's, which would be empty.

        Raises:
            ValueError: if ``epoch`` is not 0.
        """
        if epoch:
            raise ValueError(
                f"{type(self).__name__} holds all {len(self)} batches of a run in one epoch of "
                "Lightning's: pass Trainer(max_epochs=1), and give the loader the number you want"
            )
