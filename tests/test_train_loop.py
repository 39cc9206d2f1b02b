"""The loop: budgets, going on after a stop, several processes, mixed precision, logs."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
from torch import nn  # noqa: E402
from train_nets import Residual, Vgg, images, labels  # noqa: E402

from onnxmerge.errors import CalibrationError, ModelError, TrainingError  # noqa: E402
from onnxmerge.train import (  # noqa: E402
    Batches,
    HardConcrete,
    Log,
    Trainer,
    fit,
    load_checkpoint,
    shift_and_flip,
    shrink,
    wrap,
)
from onnxmerge.train.budget import Budget, Pressure  # noqa: E402

STEPS = 24


def prepared(module=Vgg, method=None, steps=STEPS, **options):
    """A trainer and its data, the same every time."""
    torch.manual_seed(0)
    masks = wrap(module(), images(2), method=method)
    optimizer = torch.optim.SGD(masks.module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    trainer = Trainer(masks, optimizer, steps, **({"macs": 0.4, "lr": 0.1} | options))
    data = Batches((images(64), labels(64)), 16, augment=shift_and_flip(1))
    return trainer, scheduler, data


def state_of(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.masks.module.state_dict().items()}


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("bilevel", [False, True], ids=["joint", "bilevel"])
@pytest.mark.parametrize("method", [None, HardConcrete()], ids=["step", "l0"])
def test_a_killed_run_goes_on_bit_identically(tmp_path, bilevel, method):
    whole, scheduler, data = prepared(method=method, bilevel=bilevel)
    weights_part, masks_part = data.parts(0.5)
    fit(whole, weights_part, nn.functional.cross_entropy, mask_data=masks_part, scheduler=scheduler)

    class Killed(Exception):
        pass

    def kill(trainer):
        if trainer.done == 11:
            raise Killed

    options = {"mask_data": masks_part, "checkpoint": tmp_path / "run.pt", "checkpoint_every": 7}
    first, scheduler, _ = prepared(method=method, bilevel=bilevel)
    with pytest.raises(Killed):
        fit(
            first,
            weights_part,
            nn.functional.cross_entropy,
            scheduler=scheduler,
            after_step=kill,
            **options,
        )
    again, scheduler, _ = prepared(method=method, bilevel=bilevel)
    torch.manual_seed(99)
    fit(again, weights_part, nn.functional.cross_entropy, scheduler=scheduler, **options)
    assert again.done == whole.done == STEPS
    assert again.recovered == whole.recovered
    assert_same(state_of(whole), state_of(again))


def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not():
    states = []
    for seed in (0, 0, 1):
        trainer, scheduler, data = prepared()
        fit(trainer, Batches(data.tensors, 16, seed), nn.functional.cross_entropy, scheduler=scheduler)
        states.append(state_of(trainer))
    assert_same(states[0], states[1])
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_checkpoint_of_another_module_is_refused(tmp_path):
    trainer, _, data = prepared(steps=1)
    fit(trainer, data, nn.functional.cross_entropy, checkpoint=tmp_path / "run.pt")
    other, _, _ = prepared(module=Residual)
    with pytest.raises(ModelError, match="cannot go on"):
        load_checkpoint(tmp_path / "run.pt", other)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="cannot go on"):
        load_checkpoint(tmp_path / "bad.pt", trainer)


@pytest.mark.parametrize("wrong", ["nan", "inf", "1e+30"])
def test_a_run_that_diverges_stops_before_the_step_and_says_what_to_do(wrong):
    trainer, scheduler, data = prepared()
    seen = {}

    def loss(answers, targets):
        value = nn.functional.cross_entropy(answers, targets)
        return value if trainer.done < 3 else value / value.detach() * float(wrong)

    with pytest.raises(TrainingError, match=rf"loss is {re.escape(wrong)} at step 4 of 24.*learning rate"):
        fit(trainer, data, loss, after_step=lambda t: seen.update(state_of(t)), scheduler=scheduler)
    assert trainer.done == 3
    assert all(torch.equal(seen[name], p) for name, p in trainer.masks.module.named_parameters())


def test_a_module_that_diverged_makes_no_file():
    trainer, _, _ = prepared()
    with torch.no_grad():
        trainer.masks.places[0].weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite"):
        shrink(trainer.masks, images(2))


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("method", [None, HardConcrete()], ids=["step", "l0"])
def test_the_budget_is_met_and_the_file_has_it(kind, method):
    trainer, _, data = prepared(method=method, steps=60, **{"macs": None, kind: 0.4})
    fit(trainer, data, nn.functional.cross_entropy)
    assert trainer.masks.fixed
    assert 0.25 < trainer.masks.share(kind) <= 0.4
    result = shrink(trainer.masks, images(2))
    before, after = getattr(result, kind)
    assert after / before == pytest.approx(trainer.masks.share(kind), abs=1e-3)


def test_mu_presses_the_share_down_before_anything_is_fixed():
    trainer, _, data = prepared(steps=200, settle=0.0)
    seen = []
    fit(
        trainer,
        data,
        nn.functional.cross_entropy,
        after_step=lambda t: seen.append((t.masks.share("macs"), t.pressure.mu)),
    )
    assert seen[-2][0] < 0.55
    assert max(mu for _, mu in seen) > 0


def test_bilevel_updates_weights_and_masks_in_turn():
    trainer, _, data = prepared(bilevel=True, steps=8, settle=0.0)
    previous = state_of(trainer)
    changed = []

    def look(trainer):
        now = state_of(trainer)
        names = {n for n, v in now.items() if not torch.equal(v, previous[n]) and "running" not in n}
        changed.append({"mask" if n.endswith(".mask") else "weight" for n in names if "num_b" not in n})
        previous.update(now)

    fit(trainer, data, nn.functional.cross_entropy, after_step=look)
    assert changed[:4] == [{"weight"}, {"mask"}, {"weight"}, {"mask"}]
    assert trainer.turns == {"weights": 4, "masks": 4, "both": 0}


def test_the_three_lines_in_a_users_loop():
    torch.manual_seed(0)
    model = Residual()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    masks = wrap(model, images(2))
    trainer = Trainer(masks, optimizer, steps=30, macs=0.5, lr=0.1)
    x, y = images(32), labels(32)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        trainer.step(loss)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert shrink(masks, x).macs[1] / shrink(masks, x).macs[0] <= 0.5


def test_masks_leave_the_users_optimizer_even_if_it_is_made_after_wrapping():
    masks = wrap(Residual(), images(2))
    optimizer = torch.optim.SGD(masks.module.parameters(), lr=0.1)
    Trainer(masks, optimizer, 10)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(masks.parameters[0]) not in owned
    assert {id(place.weight) for place in masks.places} <= owned


def test_bfloat16_autocast_trains_float32_weights():
    trainer, _, data = prepared(steps=10)
    fit(trainer, data, nn.functional.cross_entropy, autocast=torch.bfloat16)
    assert {p.dtype for p in trainer.masks.module.parameters()} == {torch.float32}
    assert shrink(trainer.masks, images(2)).error < 1e-5


def test_a_gradient_scaler_does_not_change_the_masks():
    states = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        trainer, _, data = prepared(steps=6)
        trainer = Trainer(trainer.masks, trainer.optimizer, 6, macs=0.4, lr=0.1, settle=0.0, scaler=scaler)
        fit(trainer, data, nn.functional.cross_entropy)
        states.append(trainer.masks.parameters[0].detach().clone())
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)


def test_the_log_says_what_happened(tmp_path):
    trainer, _, data = prepared(steps=10, log=Log(tmp_path / "log"), log_every=5)
    fit(trainer, data, nn.functional.cross_entropy)
    lines = [json.loads(line) for line in (tmp_path / "log" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    assert lines[-1].keys() == {"step", "macs", "params", "open", "mu", "recovered", "loss"}
    assert lines[-1]["macs"] == trainer.masks.share("macs")
    if importlib.util.find_spec("tensorboard"):
        assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_batches_cover_every_sample_and_parts_are_disjoint():
    data = Batches((torch.arange(30.0)[:, None],), 10, seed=3)
    seen = torch.cat([data.batch(i)[0] for i in range(3)]).flatten()
    assert sorted(seen.tolist()) == list(range(30))
    halves = [data.batch(4, rank, 2)[0] for rank in range(2)]
    assert sorted(torch.cat(halves).flatten().tolist()) == sorted(data.batch(4)[0].flatten().tolist())
    first, second = data.parts(0.6)
    joined = torch.cat([first.tensors[0], second.tensors[0]]).flatten()
    assert sorted(joined.tolist()) == list(range(30))
    with pytest.raises(CalibrationError, match="do not fill"):
        Batches((torch.zeros(3, 1),), 4)


def test_shifts_and_flips_move_whole_images():
    image = torch.zeros(1, 1, 6, 6)
    image[0, 0, 2, 3] = 1.0
    moved = shift_and_flip(1)(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert moved.shape == (200, 1, 6, 6)
    assert (moved.flatten(1).sum(1) == 1).all()
    places = {tuple(p.tolist()) for p in moved.nonzero()[:, 2:]}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3, 4)}


WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from torch import nn
from train_nets import Residual, images, labels
from onnxmerge.train import Batches, Processes, Trainer, fit, wrap
torch.set_num_threads(1)
torch.manual_seed(0)
processes = Processes.start("cpu")
module = Residual()
module.norm = nn.Identity()
masks = wrap(module, images(2))
optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
trainer = Trainer(masks, optimizer, 20, macs=0.4, lr=0.1)
fit(trainer, Batches((images(64), labels(64)), 16), nn.functional.cross_entropy, processes=processes)
if processes.rank == 0:
    torch.save(module.state_dict(), {out!r})
processes.close()
"""


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "worker.py"
    results = []
    for count in (1, 2):
        out = tmp_path / f"{count}.pt"
        script.write_text(WORKER.format(tests=str(Path(__file__).parent), out=str(out)))
        launch = [sys.executable]
        if count > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        done = subprocess.run(
            [*launch, str(script)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=120,
            env=_environment(),
        )
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out, weights_only=True))
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-5)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_the_wanted_share_falls_by_the_same_factor_and_mu_follows_the_logarithm():
    budget = Budget("macs", 0.01, ramp=0.5)
    assert [budget.wanted(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.1, 0.01, 0.01])
    pressure = Pressure(budget, mu=0.0)
    pressure.update(0.1 * math.e, progress=0.25)
    assert pressure.mu == pytest.approx(budget.proportional + budget.integral)
    pressure.update(0.05, progress=0.25)
    assert pressure.mu == 0.0
