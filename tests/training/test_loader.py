"""The loader of global batches: each item once an epoch, whenever a run is killed and resumed."""

from __future__ import annotations

import json
import warnings
from itertools import islice
from pathlib import Path

import lightning
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from rftt.training.loader import BatchLoader

sizes = st.integers(1, 30)


@given(sizes, sizes, st.integers(1, 3), st.booleans())
def test_each_item_comes_once_an_epoch(items: int, batch_size: int, epochs: int, shuffle: bool) -> None:
    loader = BatchLoader(range(items), batch_size, epochs=epochs, seed=7, shuffle=shuffle)
    batches = list(loader)
    assert len(batches) == len(loader) == epochs * -(-items // batch_size)
    each = len(batches) // epochs
    for start in range(0, len(batches), each):
        epoch = batches[start : start + each]
        assert sorted(i for batch in epoch for i in batch) == list(range(items))
        assert all(len(batch) == batch_size for batch in epoch[:-1])
    assert list(loader) == [], "the position only moves forward"


@given(sizes, sizes, st.integers(0, 100))
def test_a_position_says_all_that_follows(items: int, batch_size: int, batches: int) -> None:
    loader = BatchLoader(range(items), batch_size, epochs=3, seed=3)
    whole = list(BatchLoader(range(items), batch_size, epochs=3, seed=3))
    assert list(islice(loader, batches)) == whole[:batches]
    again = BatchLoader(range(items), batch_size, epochs=3, seed=3)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert list(again) == list(loader) == whole[batches:]


def test_orders_are_those_of_seed_and_epoch() -> None:
    first, second = BatchLoader(range(50), 50, epochs=2, seed=1)
    (other,) = BatchLoader(range(50), 50, seed=2)
    assert first != second
    assert first != other
    assert list(BatchLoader(range(50), 50, shuffle=False)) == [list(range(50))]


def test_a_short_last_batch_can_be_dropped() -> None:
    loader = BatchLoader(range(7), 3, epochs=2, shuffle=False, drop_last=True)
    assert len(loader) == 4
    assert list(loader) == 2 * [[0, 1, 2], [3, 4, 5]]


def test_what_holds_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="0 items in batches of 2"):
        BatchLoader([], 2)
    with pytest.raises(ValueError, match="1 items in batches of 2 with drop_last=True are no batch"):
        BatchLoader([1], 2, drop_last=True)
    with pytest.raises(ValueError, match="batch_size and epochs must be 1 or more, not 0 and 1"):
        BatchLoader([1], 0)


def test_a_position_in_other_data_is_refused() -> None:
    state = BatchLoader(range(7), 3).state_dict()
    with pytest.raises(ValueError, match="items was 7 and is 8"):
        BatchLoader(range(8), 3).load_state_dict(state)
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        BatchLoader(range(7), 3, seed=1).load_state_dict(state)


# -- under a Lightning trainer ------------------------------------------------------------------------


class _KilledError(Exception):
    pass


class _Module(lightning.LightningModule):
    """Notes which batches it was given; ``kill_at`` counts the steps of all runs before this one."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.int64))
        self.kill_at = kill_at

    def training_step(self, batch: list[int], batch_idx: int) -> None:
        if self.global_step == self.kill_at:
            raise _KilledError
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.weight - sum(batch)) ** 2)
        optimizer.step()
        self.seen = torch.cat([self.seen, torch.tensor([*batch, -1])])

    def on_load_checkpoint(self, checkpoint: dict[str, dict[str, torch.Tensor]]) -> None:
        self.seen = checkpoint["state_dict"]["seen"].clone()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def _fit(folder: Path, module: _Module, *, max_steps: int = -1, max_epochs: int = 1) -> list[list[int]]:
    """Train to the end, or to where it is killed, from the last checkpoint; return what was seen."""
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=max_epochs, max_steps=max_steps, default_root_dir=folder,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
    )  # fmt: skip
    last = folder / "last.ckpt"
    loader = BatchLoader(range(7), 3, epochs=3, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    batches: list[list[int]] = [[]]
    for item in module.seen.tolist():
        if item < 0:
            batches.append([])
        else:
            batches[-1].append(item)
    return batches[:-1]


@pytest.mark.parametrize("max_steps", [-1, 8])
def test_a_killed_run_sees_what_one_that_was_not_sees(tmp_path: Path, max_steps: int) -> None:
    """Three epochs of three batches, killed in one step, in two, and in each."""
    whole_module = _Module()
    whole = _fit(tmp_path / "whole", whole_module, max_steps=max_steps)
    steps = len(whole)
    assert whole == list(BatchLoader(range(7), 3, epochs=3, seed=4))[: max_steps if max_steps > 0 else 9]
    kills = [{kill} for kill in range(steps)] + [{kill, kill + 1} for kill in range(1, steps - 1, 2)]
    for chosen in [*kills, set(range(steps))]:
        folder = tmp_path / "-".join(map(str, sorted(chosen)))
        for kill in sorted(chosen):
            with pytest.raises(_KilledError):
                _fit(folder, _Module(kill), max_steps=max_steps)
        module = _Module()
        assert _fit(folder, module, max_steps=max_steps) == whole, f"killed in steps {chosen}"
        assert torch.equal(module.weight, whole_module.weight)
        assert _fit(folder, _Module(), max_steps=max_steps) == whole, "a finished run stays finished"


def test_a_second_epoch_of_lightnings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all 9 batches .* pass Trainer\(max_epochs=1\)"):
        _fit(tmp_path, _Module(), max_epochs=2)
