"""Wrapping: the gates stand where the core finds channels, and what they close can be cut out."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
from torch import nn  # noqa: E402
from train_nets import NETS, Branches, Depthwise, Residual, Tokens, Vgg, images  # noqa: E402

import onnxmerge  # noqa: E402
from onnxmerge.errors import BudgetError, InternalError, ModelError, UsageError  # noqa: E402
from onnxmerge.plan import Selection  # noqa: E402
from onnxmerge.runtime import Runtime  # noqa: E402
from onnxmerge.train import HardConcrete, Trainer, shrink, to_onnx, wrap, wrap_weights  # noqa: E402
from onnxmerge.train.exporting import evaluating  # noqa: E402


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorm statistics and parameters that are not those of a fresh net."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


def close_some(masks, seed: int) -> None:
    values = masks.parameters[0]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        values.copy_(3 * torch.randn(len(values), generator=generator) + masks.method.threshold)
    masks.keep_alive()


WIDTHS = {
    "vgg": [6, 12, 10],
    "residual": [8, 6],
    "depthwise": [8, 6],
    "branches": [5, 4, 6],
    "tokens": [12, 16],
}


@pytest.mark.parametrize("name", NETS)
def test_one_gate_per_channel(name):
    masks = wrap(NETS[name](), images(2))
    assert sorted(total for _, total in masks.widths.values()) == sorted(WIDTHS[name])
    assert masks.share("macs") == 1.0


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", [None, HardConcrete()], ids=["step", "l0"])
def test_the_module_with_hard_gates_equals_the_smaller_file(name, method):
    module = randomize(NETS[name]())
    masks = wrap(module, images(2), method=method)
    close_some(masks, seed=len(name))
    result = shrink(masks, images(2))
    assert result.error < 1e-5
    assert result.macs[1] / result.macs[0] == pytest.approx(masks.share("macs"))
    assert result.params[1] < result.params[0]
    assert {g: kept for g, (kept, _) in result.widths.items()} == {g: k for g, (k, _) in masks.widths.items()}
    # Another batch size, and values that the export has not seen.
    x = images(5, seed=1)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    answer = Runtime.create("cpu", 1).session(result.model).run({"input": x.numpy()})
    np.testing.assert_allclose(answer["output"], expected, atol=1e-4)


def test_wrapping_and_shrinking_leave_the_module_as_it_was():
    module = randomize(Residual()).train()
    x = images(2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    expected = module.eval()(x)
    module.train()
    masks = wrap(module, x)
    shrink(masks, x)
    assert all(part.training for part in module.modules())
    assert torch.equal(module.eval()(x), expected)
    state = module.state_dict()
    for name, value in before.items():
        path, _, attribute = name.rpartition(".")
        gated = f"{path}.parametrizations.{attribute}.original"
        assert torch.equal(state.get(name, state.get(gated)), value)


def test_a_residual_channel_closes_in_every_consumer():
    masks = wrap(Residual(), images(2))
    module = masks.module
    with torch.no_grad():
        masks.parameters[0].fill_(-1.0)
    assert not module.first.weight.any()
    assert not module.output.weight.any()
    assert not module.second.weight.any()
    assert module.stem.weight.all()  # its inputs are the model's


def test_depthwise_weights_have_no_gate_of_their_own():
    masks = wrap(Depthwise(), images(2))
    assert [place.name for place in masks.places] == ["project.weight", "output.weight"]


def test_branches_close_apart():
    masks = wrap(Branches(), images(2))
    closed = torch.zeros(15, dtype=torch.bool)
    closed[:5] = True
    with torch.no_grad():
        masks.parameters[0][closed] = -1.0
    weight = masks.module.join.weight
    assert not weight[:, :5].any()
    assert weight[:, 5:].all()


def test_linear_layers_on_sequences_are_found_behind_their_transposed_copies():
    masks = wrap(Tokens(), images(2))
    assert [place.name for place in masks.places] == ["up.weight", "down.weight", "output.weight"]


class Tied(nn.Module):
    """One weight in two directions, or one in two layers."""

    def __init__(self, across: bool):
        super().__init__()
        self.embed = nn.Linear(8, 6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.hidden, self.output = nn.Linear(6, 7), nn.Linear(7, 4)
        self.across = across
        if not across:
            self.second.weight = self.first.weight

    def forward(self, x):
        x = torch.relu(self.first(torch.relu(self.embed(x.mean((1, 2))))))
        x = torch.relu(x @ self.first.weight if self.across else self.second(x))
        return self.output(torch.relu(self.hidden(x)))


def test_a_weight_used_in_two_directions_stays_without_gates():
    masks = wrap(Tied(across=True), images(2))
    assert "two layers use the same parameter in different directions" in masks.skipped
    assert [place.name for place in masks.places] == ["output.weight"]
    close_some(masks, seed=0)
    assert shrink(masks, images(2)).error < 1e-5


def test_a_weight_that_two_layers_share_has_its_gate_in_both():
    module = Tied(across=False).eval()
    masks = wrap(module, images(2))
    first, second = (layer.parametrizations.weight for layer in (module.first, module.second))
    assert first.original is second.original
    close_some(masks, seed=0)
    assert not masks.opened[0].all()
    assert torch.equal(module.first.weight, module.second.weight)
    assert shrink(masks, images(2)).error < 1e-5
    assert first.original is module.second.parametrizations.weight.original


def test_recurrent_weights_have_no_gates():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.cell = nn.Linear(8, 6), nn.GRU(6, 5, batch_first=True)
            self.hidden, self.output = nn.Linear(5, 7), nn.Linear(7, 4)

        def forward(self, x):
            states, _ = self.cell(torch.relu(self.embed(x.mean(1))))
            return self.output(torch.relu(self.hidden(states[:, -1])))

    masks = wrap(Recurrent(), images(2))
    assert [place.name for place in masks.places] == ["output.weight"]
    close_some(masks, seed=0)
    assert shrink(masks, images(2)).error < 1e-5


def test_what_a_layer_norm_normalises_has_no_gates_and_is_never_dead():
    """Its statistics would change, whatever reads a channel behind it."""
    module = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad():
        module[2].weight[:, :2] = 0
    masks = wrap(module, torch.randn(2, 8))
    assert masks.skipped == {"LayerNormalization normalises over it": 6}
    close_some(masks, seed=0)
    assert not masks.opened[0].all()
    result = shrink(masks, torch.randn(2, 8))
    assert result.error < 1e-5
    assert (6, 6) in result.widths.values()


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("target", [0.15, 0.5, 0.9])
def test_fixing_meets_the_target_from_either_side(kind, target):
    for seed, shift in ((0, 3.0), (1, -3.0)):
        masks = wrap(Vgg(), images(2))
        close_some(masks, seed)
        with torch.no_grad():
            masks.parameters[0] += shift
        masks.fix(kind, target)
        assert masks.share(kind) <= target
        closed = torch.nonzero(~masks.opened[0]).flatten()
        strongest = closed[masks.parameters[0][closed].argmax()]
        more = [masks.opened[0].clone()]
        more[0][strongest] = True
        assert masks.share(kind, more) > target
        assert min(kept for kept, _ in masks.widths.values()) >= 1


def test_the_channels_of_a_plan_can_be_trained_on():
    module = randomize(Residual())
    with evaluating(module):
        dense = to_onnx(module, images(2))
    cut = onnxmerge.optimize(dense, ratio=0.5, criterion="l1", compensation="none", samples=2, device="cpu")
    masks = wrap(module, images(2))
    masks.fix_at(cut.plan.selection)
    assert masks.fixed
    shrunk = shrink(masks, images(2))
    planned = {name: len(kept) for name, kept in cut.plan.keep.items()}
    assert {name: kept for name, (kept, _) in shrunk.widths.items()} == planned
    feed = {dense.graph.input[0].name: images(8, seed=3).numpy()}
    found, expected = (Runtime.create("cpu", 1).session(m).run(feed) for m in (shrunk.model, cut.model))
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-4, atol=1e-5)
    name = next(iter(planned))
    with pytest.raises(UsageError, match=f"'{name}' has the channels 0 to"):
        masks.fix_at(Selection({name: np.array([0, 999])}))
    with pytest.raises(UsageError, match="no group 'nowhere'"):
        masks.fix_at(Selection({"nowhere": np.zeros(1, dtype=np.int64)}))


def test_no_layer_runs_empty():
    masks = wrap(Vgg(), images(2))
    with torch.no_grad():
        masks.parameters[0].copy_(-torch.arange(1.0, 29.0))
    masks.keep_alive()
    assert [kept for kept, _ in masks.widths.values()] == [1, 1, 1]
    assert torch.nonzero(masks.opened[0]).flatten().tolist() == [0, 6, 18]


def test_a_branch_whose_gates_all_close_leaves_the_file():
    masks = wrap(randomize(Residual()), images(2))
    inner = next(name for name, (_, total) in masks.widths.items() if total == 6)
    with torch.no_grad():
        masks.parameters[0].copy_(torch.where(torch.arange(14) < 8, 1.0, -1.0))
    assert masks.widths[inner] == (0, 6)
    masks.keep_alive()
    assert masks.widths[inner] == (0, 6), "the sum has its other operand"
    result = shrink(masks, images(2))
    assert result.error < 1e-5 and result.widths[inner] == (0, 6)
    assert [node.op_type for node in result.model.graph.node].count("Conv") == 1
    assert result.macs[1] / result.macs[0] == pytest.approx(masks.share("macs"))
    assert result.params[1] / result.params[0] == pytest.approx(masks.share("params"))

    kept = wrap(randomize(Residual()), images(2), depth=False)
    with torch.no_grad():
        kept.parameters[0].copy_(masks.parameters[0])
    kept.keep_alive()
    assert kept.widths[inner] == (1, 6)


def test_weight_masks_compress_and_dead_channels_go():
    masks = wrap_weights(randomize(Vgg()))
    for number, values in enumerate(masks.parameters):
        generator = torch.Generator().manual_seed(number)
        values.data = torch.randn(values.shape, generator=generator)
    masks.fix("params", 0.1)
    assert masks.share("params") <= 0.1
    assert masks.compression > 10
    result = shrink(masks, images(2))
    assert result.error < 1e-5
    assert result.macs[1] < result.macs[0]


def test_impossible_budgets_and_options_are_refused():
    def trainer(**options):
        masks = wrap(Vgg(), images(2))
        return Trainer(masks, torch.optim.SGD(masks.module.parameters(), lr=0.1), 10, **options)

    with pytest.raises(BudgetError, match="cannot be met"):
        trainer(macs=0.0001)
    with pytest.raises(UsageError, match="both"):
        trainer(macs=0.5, params=0.5)
    with pytest.raises(UsageError, match="unknown"):
        trainer(mac=0.5)
    with pytest.raises(UsageError, match="requires_grad"):
        frozen = wrap(Vgg().requires_grad_(False), images(2))
        Trainer(frozen, torch.optim.SGD(frozen.module.parameters(), lr=0.1), 10, macs=0.5)
    with pytest.raises(UsageError, match="only of params"):
        masks = wrap_weights(Vgg())
        Trainer(masks, torch.optim.SGD(masks.module.parameters(), lr=0.1), 10, macs=0.5)


def test_a_module_without_free_channels_is_refused():
    with pytest.raises(ModelError, match="nothing to learn"):
        wrap(nn.Conv2d(3, 4, 1), images(2))


def test_a_wrong_export_is_noticed():
    masks = wrap(Vgg(), images(2))
    other = Vgg()

    def exporter(module, example):
        from onnxmerge.train import to_onnx

        return to_onnx(other, example)

    with pytest.raises(InternalError, match="differs from the trained module"):
        shrink(masks, images(2), exporter=exporter)
