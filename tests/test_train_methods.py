"""The update of the masks against values worked out by hand, and the claim about recovery."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
import train_nets  # noqa: E402, F401 - one thread
from torch import nn  # noqa: E402

from onnxmerge.train import HardConcrete, HardStep, LeakyRelu, Linear, Softplus, Trainer  # noqa: E402
from onnxmerge.train.masks import Auxiliary, Masks  # noqa: E402
from onnxmerge.train.scales import magnitudes  # noqa: E402


class TwoChannels(Masks):
    """y = t x for a 2x2 weight whose columns are two channels."""

    kinds = ("params",)

    def __init__(self, method, start):
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[2.0, -3.0], [-1.0, 0.5]]))
        auxiliary = Auxiliary(nn.Parameter(torch.tensor(start)))
        gates = {"weight": (auxiliary, torch.tensor([[0, 1]]))}
        super().__init__(self.linear, method, [auxiliary], gates, seed=0)

    def share(self, kind, opened=None):
        return float((self.opened if opened is None else opened)[0].float().mean())

    def costs(self, kind):
        return [torch.tensor([1.0, 3.0])]


# dL/dt for L = sum(c * (t x)), c = (1, 2), x = (1, 4): rows c, columns x.
GRADIENT = [[1.0, 4.0], [2.0, 8.0]]
WEIGHT = [[2.0, -3.0], [-1.0, 0.5]]
START = [0.7, -0.4]
SLOPES = {
    Softplus(): [1 / (1 + math.exp(-0.7)), 1 / (1 + math.exp(0.4))],
    LeakyRelu(0.1): [1.0, 0.1],
    Linear(): [1.0, 1.0],
}


def loss_of(masks):
    return (masks.module(torch.tensor([1.0, 4.0])) * torch.tensor([1.0, 2.0])).sum()


@pytest.mark.parametrize("estimator", SLOPES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("decoupled", [True, False], ids=["sign", "plain"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_update_is_the_published_one(estimator, decoupled, norm):
    masks = TwoChannels(HardStep(estimator, decoupled), START)
    optimizer = torch.optim.SGD(masks.module.parameters(), lr=0.0)
    trainer = Trainer(masks, optimizer, 100, mu=0.5, lr=0.1, norm=norm, scale_free=False)
    trainer.backward(loss_of(masks))
    trainer.step()
    scale = [[math.copysign(1.0, w) if decoupled else w for w in row] for row in WEIGHT]
    for channel, (cost, opened) in enumerate([(1.0, 1.0), (3.0, 0.0)]):
        pull = sum(GRADIENT[row][channel] * scale[row][channel] for row in range(2))
        slope = SLOPES[estimator][channel]
        regulariser = cost * slope * (1.0 if norm == "l1" else 2 * opened)
        expected = START[channel] - 0.1 * (pull * slope + 0.5 * regulariser)
        assert masks.parameters[0][channel].item() == pytest.approx(expected, rel=1e-6)


def test_forward_is_the_hard_step_and_weights_see_it():
    masks = TwoChannels(HardStep(), START)
    masks.module(torch.tensor([1.0, 4.0])).sum().backward()
    assert masks.module(torch.tensor([1.0, 4.0])).tolist() == [2.0, -1.0]
    assert masks.places[0].weight.grad.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_sign_keeps_an_acute_angle_with_the_coarse_gradient():
    sign, plain = (TwoChannels(HardStep(decoupled=d), START) for d in (True, False))
    one = torch.tensor([1.0, 4.0])
    for masks in (sign, plain):
        # One weight per channel: the product is (dL/dt)^2 |w| h'^2.
        masks.module(one)[0].backward()
    assert (sign.parameters[0].grad * plain.parameters[0].grad > 0).all()


def ever_recovers(decay_in_masks: bool) -> bool:
    """A regression on two inputs, one of them small, whose gate is closed at the start."""
    decay = 0.05
    masks = TwoChannels(HardStep(), [1.0, -0.1])
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1])
    target = x @ torch.tensor(WEIGHT).T
    optimizer = torch.optim.SGD(masks.module.parameters(), lr=0.01, weight_decay=decay)
    trainer = Trainer(masks, optimizer, 100, lr=0.5, settle=0.0, scale_free=False)
    recovered = False
    for _ in range(100):
        trainer.backward((masks.module(x) - target).square().sum(1).mean() / 2)
        weight, mask = masks.places[0].weight.detach(), masks.parameters[0]
        if decay_in_masks:  # the decay's gradient, lambda * w, as a part of dL/dt
            mask.grad += decay * weight.abs().sum(0) * torch.sigmoid(mask.detach())
        trainer.step()
        recovered |= bool(masks.opened[0][1])
    return recovered


def test_a_closed_channel_recovers_when_its_gradient_says_so():
    assert ever_recovers(decay_in_masks=False)


def test_weight_decay_in_the_masks_gradient_would_prevent_it():
    assert not ever_recovers(decay_in_masks=True)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_weights_behind_closed_gates_keep_their_values(kind):
    masks = TwoChannels(HardStep(), [1.0, 1.0])
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(masks.module.parameters(), lr=0.1, weight_decay=0.5, **options)
    trainer = Trainer(masks, optimizer, 100, lr=0.0)
    for step in range(4):
        if step == 2:  # after momentum has built up
            masks.parameters[0].data[1] = -5.0
            kept = masks.places[0].weight[:, 1].tolist()
            open_before = masks.places[0].weight[:, 0].tolist()
        trainer.backward(loss_of(masks))
        trainer.step()
    assert masks.places[0].weight[:, 1].tolist() == kept
    assert masks.places[0].weight[:, 0].tolist() != open_before


def test_recoveries_are_counted():
    masks = TwoChannels(HardStep(), START)
    trainer = Trainer(masks, torch.optim.SGD(masks.module.parameters(), lr=0.0), 10, scale_free=False)
    masks.parameters[0].grad = torch.tensor([0.0, -100.0])
    trainer.step()
    assert trainer.recovered == 1


def test_hard_concrete_gate_has_the_published_mean_and_penalty():
    method = HardConcrete()
    mask = torch.tensor([-4.0, 0.0, 4.0])
    stretched = [1.2 / (1 + math.exp(-a)) - 0.1 for a in mask.tolist()]
    assert method.values(mask, None).tolist() == pytest.approx([min(1, max(0, z)) for z in stretched])
    open_probability = [1 / (1 + math.exp(-(a - 2 / 3 * math.log(0.1 / 1.1)))) for a in mask.tolist()]
    penalty = method.penalty(mask, torch.tensor([1.0, 2.0, 3.0]), "l1").item()
    assert penalty == pytest.approx(sum(c * p for c, p in zip((1, 2, 3), open_probability, strict=True)))
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    nonzero = (method.values(torch.zeros(20_000), noise.clamp(1e-6, 1 - 1e-6)) > 0).float().mean().item()
    assert nonzero == pytest.approx(open_probability[1], abs=0.01)


def test_hard_concrete_noise_is_one_draw_per_forward_and_none_in_evaluation():
    masks = TwoChannels(HardConcrete(), [0.0, 0.0])
    x = torch.eye(2)
    first, second = masks.module(x), masks.module(x)
    assert not torch.equal(first, second)
    masks.module.eval()
    assert torch.equal(masks.module(x), masks.module(x))


def test_scaled_steps_are_loss_per_cost():
    masks = TwoChannels(HardStep(Linear()), START)
    trainer = Trainer(masks, torch.optim.SGD(masks.module.parameters(), lr=0.0), 100, mu=0.5, lr=0.1)
    trainer.backward(loss_of(masks))
    trainer.step()
    pulls = [1.0 - 2.0, -4.0 + 8.0]  # the sum of dL/dt * sgn(w) of each channel
    scaled = [pull * 1.5 / cost for pull, cost in zip(pulls, (1.0, 3.0), strict=True)]  # open: |2| and |-1|
    size = math.sqrt(sum(g * g for g in scaled) / 2)
    for channel, gradient in enumerate(scaled):
        expected = START[channel] - 0.1 * (gradient / size + 0.5)
        assert masks.parameters[0][channel].item() == pytest.approx(expected, rel=1e-6)


def test_magnitudes_of_a_width_are_those_of_open_gates_or_of_all_where_none_is():
    masks = TwoChannels(HardStep(), START)
    (auxiliary,) = masks.auxiliaries
    assert magnitudes(masks, auxiliary).tolist() == [1.5, 1.5]
    auxiliary.values.data.fill_(-1.0)
    assert magnitudes(masks, auxiliary).tolist() == [1.625, 1.625]
    auxiliary.width = torch.tensor([0, 1])
    assert magnitudes(masks, auxiliary).tolist() == [1.5, 1.75]


def test_the_last_decision_is_by_the_running_mean():
    masks = TwoChannels(HardStep(), [1.0, 1.0])
    optimizer = torch.optim.SGD(masks.module.parameters(), lr=0.0)
    trainer = Trainer(masks, optimizer, 20, lr=0.0, settle=0.0, average=0.5, params=0.5)
    for step in range(20):
        # Channel 0 is the stronger one all the time but for the last step.
        last = step == 19
        masks.parameters[0].data.copy_(torch.tensor([0.1, 0.2] if last else [0.8, 0.3]))
        trainer.backward(loss_of(masks))
        trainer.step()
    assert masks.fixed
    assert masks.opened[0].tolist() == [True, False]
