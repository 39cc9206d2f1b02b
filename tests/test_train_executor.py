"""The torch executor against onnxruntime, operator by operator, and the way back into the file."""

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
import train_nets  # noqa: E402, F401 - one thread
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from support import model  # noqa: E402

from onnxmerge.errors import ModelError  # noqa: E402
from onnxmerge.runtime import Runtime  # noqa: E402
from onnxmerge.train import OnnxModule, Trainer, shrink, to_onnx, wrap  # noqa: E402
from onnxmerge.train.executor import FUNCTIONS  # noqa: E402

RUNTIME = Runtime.create("cpu", 1)


def single(op, shapes, constants=(), *, opset=17, dtype=TensorProto.FLOAT, outputs=1, **attributes):
    """A model of one node: float inputs of these shapes, then constants (None: left out)."""
    names = [f"x{i}" for i in range(len(shapes))]
    stored = [
        numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(constants) if c is not None
    ]
    operands = names + ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, operands, results, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info(n, dtype, None) for n in results],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_same_answers(proto, shapes, positive=False):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    if positive:
        inputs = [np.abs(x) + 0.1 for x in inputs]
    names = [value.name for value in proto.graph.input]
    expected = RUNTIME.session(proto).run(dict(zip(names, inputs, strict=True)))
    answers = OnnxModule(proto).eval()(*(torch.from_numpy(x) for x in inputs))
    answers = (answers,) if isinstance(answers, torch.Tensor) else answers
    for answer, value in zip(answers, expected.values(), strict=True):
        assert answer.shape == value.shape
        np.testing.assert_allclose(answer.detach().numpy(), value, rtol=1e-4, atol=1e-5)


I = np.int64  # noqa: E741
F = np.float32
W = np.random.default_rng(1).standard_normal
IMAGE = (2, 3, 7, 9)
BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64

# fmt: off
POINTWISE = [
    "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
]
# fmt: on
WEIGHTS = {
    g: (W((1, 6 * g, 4)).astype(F), W((1, 6 * g, 6)).astype(F), W((1, 12 * g)).astype(F)) for g in (1, 3, 4)
}
BOTH = tuple(np.concatenate([w, w[:, ::-1]]) for w in WEIGHTS[4])
STATE = W((1, 2, 6)).astype(F)
SEQUENCE = (5, 2, 4)
CASES = {
    "LSTM": ("LSTM", [SEQUENCE], WEIGHTS[4], {"hidden_size": 6, "outputs": 3}),
    "LSTM both ways": (
        "LSTM",
        [SEQUENCE],
        BOTH,
        {"hidden_size": 6, "outputs": 3, "direction": "bidirectional"},
    ),
    "LSTM with a state": (
        "LSTM",
        [SEQUENCE],
        (*WEIGHTS[4][:2], None, None, STATE, STATE),
        {"hidden_size": 6, "outputs": 3},
    ),
    "GRU": ("GRU", [SEQUENCE], WEIGHTS[3], {"hidden_size": 6, "outputs": 2}),
    "GRU linear first": (
        "GRU",
        [SEQUENCE],
        WEIGHTS[3],
        {"hidden_size": 6, "outputs": 2, "linear_before_reset": 1},
    ),
    "RNN backward": (
        "RNN",
        [SEQUENCE],
        WEIGHTS[1],
        {"hidden_size": 6, "outputs": 2, "direction": "reverse"},
    ),
    "GatherElements": ("GatherElements", [(3, 4)], (np.array([[0, -1], [2, 1]], I),), {"axis": 0}),
    "GatherND": ("GatherND", [IMAGE], (np.array([[1, 2, -1], [0, 0, 3]], I),), {}),
    "GatherND in batches": ("GatherND", [IMAGE], (np.array([[[1]], [[-1]]], I),), {"batch_dims": 1}),
    "ScatterElements": (
        "ScatterElements",
        [(3, 4)],
        (np.array([[0, 2], [2, -3]], I), W((2, 2)).astype(F)),
        {"axis": 0},
    ),
    "ScatterElements add": (
        "ScatterElements",
        [(3, 4)],
        (np.array([[1, 1, -1]], I), W((1, 3)).astype(F)),
        {"axis": 1, "reduction": "add"},
    ),
    "ScatterND": ("ScatterND", [(3, 4)], (np.array([[0], [-1]], I), W((2, 4)).astype(F)), {}),
    "ScatterND add": (
        "ScatterND",
        [(3, 4)],
        (np.array([[0, 1], [0, 1]], I), W(2).astype(F)),
        {"reduction": "add"},
    ),
    "Trilu": ("Trilu", [(2, 5, 5)], (np.array(1, I),), {"upper": 0}),
    "IsNaN": ("IsNaN", [IMAGE], (), {"dtype": BOOL}),
    **{op: (op, [IMAGE], (), {}) for op in POINTWISE},
    **{op: (op, [IMAGE], (), {"positive": True}) for op in ("Log", "Sqrt")},
    **{
        op: (op, [IMAGE, (3, 1, 9)], (), {})
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum")
    },
    **{
        op: (op, [IMAGE, IMAGE], (), {"dtype": BOOL})
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    },
    "Mod": ("Mod", [IMAGE, IMAGE], (), {"fmod": 1}),
    "Pow": ("Pow", [IMAGE], (F(3),), {}),
    "PRelu": ("PRelu", [IMAGE], (W((3, 1, 1)).astype(F),), {}),
    "Mish": ("Mish", [IMAGE], (), {"opset": 18}),
    "Gelu": ("Gelu", [IMAGE], (), {"opset": 20}),
    "Gelu tanh": ("Gelu", [IMAGE], (), {"opset": 20, "approximate": "tanh"}),
    "Clip": ("Clip", [IMAGE], (F(-0.5), F(0.7)), {}),
    "Clip upper": ("Clip", [IMAGE], (None, F(0.7)), {}),
    "Clip old": ("Clip", [IMAGE], (), {"opset": 6, "min": -0.5, "max": 0.5}),
    "Cast": ("Cast", [IMAGE], (), {"to": INT64, "dtype": INT64}),
    "Softmax": ("Softmax", [IMAGE], (), {"axis": 1}),
    "Softmax old": ("Softmax", [IMAGE], (), {"axis": 2, "opset": 11}),
    "LogSoftmax": ("LogSoftmax", [IMAGE], (), {}),
    "Conv": (
        "Conv",
        [IMAGE],
        (W((4, 3, 3, 3)).astype(F), W(4).astype(F)),
        {"pads": [1, 1, 1, 1], "strides": [2, 1]},
    ),
    "Conv uneven": (
        "Conv",
        [IMAGE],
        (W((4, 3, 3, 2)).astype(F),),
        {"pads": [0, 1, 2, 0], "dilations": [2, 1]},
    ),
    "Conv same": (
        "Conv",
        [IMAGE],
        (W((4, 3, 3, 2)).astype(F),),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "Conv lower": ("Conv", [IMAGE], (W((4, 3, 2, 2)).astype(F),), {"auto_pad": "SAME_LOWER"}),
    "Conv valid": ("Conv", [IMAGE], (W((4, 3, 2, 2)).astype(F),), {"auto_pad": "VALID"}),
    "Conv groups": ("Conv", [(2, 4, 7)], (W((6, 2, 3)).astype(F),), {"group": 2}),
    "Conv 3d": ("Conv", [(1, 2, 4, 5, 6)], (W((3, 2, 2, 2, 2)).astype(F),), {}),
    "ConvTranspose": (
        "ConvTranspose",
        [IMAGE],
        (W((3, 2, 3, 3)).astype(F), W(2).astype(F)),
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1], "group": 1},
    ),
    "ConvTranspose groups": (
        "ConvTranspose",
        [(2, 4, 5)],
        (W((4, 3, 3)).astype(F),),
        {"group": 2, "dilations": [2]},
    ),
    "MaxPool": ("MaxPool", [IMAGE], (), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "MaxPool ceil": ("MaxPool", [IMAGE], (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "MaxPool same": ("MaxPool", [IMAGE], (), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    "AveragePool": (
        "AveragePool",
        [IMAGE],
        (),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
    ),
    "AveragePool counted": (
        "AveragePool",
        [IMAGE],
        (),
        {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1},
    ),
    "AveragePool uneven": ("AveragePool", [IMAGE], (), {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1]}),
    "GlobalAveragePool": ("GlobalAveragePool", [IMAGE], (), {}),
    "GlobalMaxPool": ("GlobalMaxPool", [IMAGE], (), {}),
    "Gemm": (
        "Gemm",
        [(3, 4)],
        (W((5, 4)).astype(F), W(5).astype(F)),
        {"transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "Gemm transA": ("Gemm", [(4, 3)], (W((4, 5)).astype(F),), {"transA": 1}),
    "MatMul": ("MatMul", [(2, 3, 4)], (W((4, 5)).astype(F),), {}),
    "Einsum": ("Einsum", [(2, 3, 4), (2, 4, 5)], (), {"equation": "bij,bjk->bik"}),
    "BatchNormalization": (
        "BatchNormalization",
        [IMAGE],
        tuple(np.abs(W(3)).astype(F) + 0.1 for _ in range(4)),
        {"epsilon": 1e-3},
    ),
    "InstanceNormalization": ("InstanceNormalization", [IMAGE], (W(3).astype(F), W(3).astype(F)), {}),
    "LayerNormalization": ("LayerNormalization", [(2, 3, 8)], (W(8).astype(F), W(8).astype(F)), {}),
    "GroupNormalization": (
        "GroupNormalization",
        [(2, 4, 5)],
        (W(4).astype(F), W(4).astype(F)),
        {"opset": 21, "num_groups": 2},
    ),
    "LpNormalization": ("LpNormalization", [IMAGE], (), {"axis": 1, "p": 2}),
    "LRN": ("LRN", [IMAGE], (), {"size": 3}),
    **{
        op: (op, [IMAGE], (), {"axes": [1, -1], "keepdims": 0, "positive": True})
        for op in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean")
    },
    **{op: (op, [IMAGE], (), {"axes": [2]}) for op in ("ReduceMin", "ReduceProd", "ReduceSumSquare")},
    "ReduceSum": ("ReduceSum", [IMAGE], (I([1, 2]),), {"keepdims": 0}),
    "ReduceMean all": ("ReduceMean", [IMAGE], (), {"keepdims": 0}),
    "ReduceSum noop": ("ReduceSum", [IMAGE], (), {"noop_with_empty_axes": 1}),
    "ArgMax": ("ArgMax", [IMAGE], (), {"axis": 1, "keepdims": 0, "dtype": INT64}),
    "ArgMin": ("ArgMin", [IMAGE], (), {"axis": -1, "dtype": INT64}),
    "CumSum": ("CumSum", [IMAGE], (I(2),), {}),
    "Concat": ("Concat", [IMAGE, (2, 1, 7, 9)], (), {"axis": 1}),
    "Split": ("Split", [IMAGE], (I([2, 3, 4]),), {"axis": 3, "outputs": 3}),
    "Split equal": ("Split", [(2, 6)], (), {"axis": 1, "outputs": 3}),
    "Slice": ("Slice", [IMAGE], (I([1, -2]), I([100, 0]), I([1, 3]), I([1, -3])), {}),
    "Slice back": ("Slice", [IMAGE], (I([-1]), I([np.iinfo(I).min]), I([2]), I([-2])), {}),
    "Pad": ("Pad", [IMAGE], (I([0, 1, 2, 0, 0, 0, -1, 3]), F(1.5)), {}),
    "Pad reflect": ("Pad", [IMAGE], (I([0, 0, 2, 3, 0, 0, 1, 2]),), {"mode": "reflect"}),
    "Pad edge": ("Pad", [IMAGE], (I([0, 0, 2, 3, 0, 0, 1, 2]),), {"mode": "edge"}),
    "Reshape": ("Reshape", [IMAGE], (I([0, -1, 9]),), {}),
    "Flatten": ("Flatten", [IMAGE], (), {"axis": 2}),
    "Transpose": ("Transpose", [IMAGE], (), {"perm": [0, 2, 3, 1]}),
    "Squeeze": ("Squeeze", [(2, 1, 3, 1)], (I([1]),), {}),
    "Squeeze all": ("Squeeze", [(2, 1, 3, 1)], (), {}),
    "Unsqueeze": ("Unsqueeze", [(2, 3)], (I([0, -1]),), {}),
    "Gather": ("Gather", [IMAGE], (I([[0, -1], [2, 1]]),), {"axis": 1}),
    "Gather scalar": ("Gather", [IMAGE], (I(1),), {"axis": 2}),
    "Expand": ("Expand", [(3, 1, 9)], (I([2, 3, 7, 1]),), {}),
    "Tile": ("Tile", [(2, 3)], (I([2, 3]),), {}),
    "Shape": ("Shape", [IMAGE], (), {"dtype": INT64}),
    "Size": ("Size", [IMAGE], (), {"dtype": INT64}),
    "DepthToSpace": ("DepthToSpace", [(1, 8, 2, 3)], (), {"blocksize": 2}),
    "DepthToSpace CRD": ("DepthToSpace", [(1, 8, 2, 3)], (), {"blocksize": 2, "mode": "CRD"}),
    "SpaceToDepth": ("SpaceToDepth", [(1, 2, 4, 6)], (), {"blocksize": 2}),
    "Dropout": ("Dropout", [IMAGE], (), {}),
    "Upsample": ("Upsample", [IMAGE], (F([1, 1, 2, 3]),), {"opset": 9}),
    "Upsample linear": ("Upsample", [IMAGE], (F([1, 1, 2, 2]),), {"opset": 9, "mode": "linear"}),
}
for _mode in ("nearest", "linear", "cubic"):
    for _by in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        CASES[f"Resize {_mode} {_by}"] = (
            "Resize",
            [IMAGE],
            (None, F([1, 1, 2, 1.5])),
            {"mode": _mode, "coordinate_transformation_mode": _by},
        )
for _round in ("floor", "ceil", "round_prefer_ceil"):
    CASES[f"Resize {_round}"] = (
        "Resize",
        [IMAGE],
        (None, None, I([2, 3, 5, 13])),
        {"nearest_mode": _round, "coordinate_transformation_mode": "asymmetric"},
    )


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    op, shapes, constants, options = CASES[name]
    options = dict(options)
    positive = options.pop("positive", False)
    assert_same_answers(single(op, shapes, constants, **options), shapes, positive)


def test_every_function_has_a_case():
    elsewhere = {
        *("And", "Constant", "ConstantOfShape", "Equal", "Not", "OneHot", "Or", "RandomNormalLike"),
        *("RandomUniformLike", "Range", "Scatter", "TopK", "Where", "Xor"),
    }
    assert set(FUNCTIONS) - {case[0] for case in CASES.values()} == elsewhere


def test_random_numbers_are_of_the_right_kind():
    proto = model("""g (float[n, c] x) => (float[n, c] y, float[n, c] z) {
        y = RandomNormalLike<mean = 100.0>(x)  z = RandomUniformLike<low = 3.0, high = 4.0>(x) }""")
    y, z = OnnxModule(proto)(torch.zeros(50, 20))
    assert 99 < float(y.mean()) < 101 and 0.9 < float(y.std()) < 1.1
    assert 3 <= float(z.min()) < float(z.max()) <= 4


def test_choices_and_constants():
    proto = model("""
        g (float[n, c] x) => (float[n, k] y, int64[n, k] places, float[n, k, 5] hot, bool[n, k] odd)
        <float[2] values = {-1, 2}>
        {
            three = Constant<value_ints = [3]>()
            five = Constant<value_int = 5>()
            half = Constant<value_float = 0.5>()
            y, places = TopK<axis = -1>(x, three)
            rest = Mod(places, five)
            hot = OneHot<axis = -1>(rest, five, values)
            large = Greater(y, half)
            small = Less(y, half)
            odd = Xor(large, small)
        }""")
    assert_same_answers(proto, [(4, 8)])


def test_integers_and_conditions():
    proto = model("""
        g (float[n, c] x) => (float[n, c] y, float[a] filled, int64[b] counted)
        <int64[1] one = {0}, float negative = {-0.5}, int64 zero = {0},
         int64 first = {0}, int64 ten = {10}, int64 three = {3}, float half = {0.5}>
        {
            shape = Shape(x)
            count = Gather<axis = 0>(shape, first)
            counted = Range(zero, ten, three)
            length = Unsqueeze(count, one)
            filled = ConstantOfShape<value = float[1] {2.5}>(length)
            large = Greater(x, half)
            small = Less(x, negative)
            either = Or(large, small)
            both = And(large, small)
            neither = Not(either)
            same = Equal(both, neither)
            y = Where(same, x, half)
        }
    """)
    assert_same_answers(proto, [(4, 5)])


NET = """
    net (float[n, 3, 8, 8] x) => (float[n, 4] y)
    <float[6, 3, 3, 3] w1, float[6] b1, float[6] scale, float[6] shift, float[6] mean, float[6] var,
     float[8, 6, 3, 3] w2, float[4, 8] w3, float[4] b3>
    {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
        n1 = BatchNormalization(a, scale, shift, mean, var)
        r = Relu(n1)
        b = Conv(r, w2)
        s = Relu(b)
        p = GlobalAveragePool(s)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w3, b3)
    }
"""


def test_trained_weights_go_back_under_their_names():
    proto = model(NET)
    proto.metadata_props.add(key="kept", value="yes")
    module = OnnxModule(proto)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module(x).square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    written = module.to_model()
    assert [t.name for t in written.graph.initializer] == [t.name for t in proto.graph.initializer]
    assert written.metadata_props == proto.metadata_props
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in p.graph.initializer} for p in (proto, written)
    )
    assert all(not np.array_equal(before[name], after[name]) for name in before)  # mean and var follow
    answer = RUNTIME.session(written).run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(answer, module.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_masks_are_learned_from_a_file_alone():
    module = OnnxModule(model(NET)).eval()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = wrap(module, x)
    assert [total for _, total in masks.widths.values()] == [6, 8]
    trainer = Trainer(masks, torch.optim.SGD(module.parameters(), lr=1e-4), 30, macs=0.3, lr=0.1)
    for _ in range(30):
        trainer.backward(module(x).square().mean())
        trainer.step()
    result = shrink(masks, x)
    assert result.macs[1] / result.macs[0] <= 0.3
    assert {t.name for t in result.model.graph.initializer} <= {t.name for t in model(NET).graph.initializer}


def test_one_constant_of_two_nodes_is_one_parameter():
    proto = model("""
        net (float[n, 4] x) => (float[n, 4] y)
        <float[4, 4] w> { h = MatMul(x, w)  y = MatMul(h, w) }
    """)
    module = OnnxModule(proto)
    assert len(list(module.parameters())) == 1
    assert len(to_onnx(module, torch.zeros(1, 4)).graph.initializer) == 1


def test_what_is_not_covered_is_refused_by_name():
    proto = single("NonZero", [(2, 3)], dtype=INT64)
    with pytest.raises(ModelError, match="NonZero"):
        OnnxModule(proto)
    with pytest.raises(ModelError, match="no tensor named 'lost'"):
        OnnxModule(model(NET), ["lost"])


def test_intermediate_values_by_name():
    module = OnnxModule(model(NET), ["r", "y"]).eval()
    x = torch.randn(2, 3, 8, 8)
    hidden, _ = module(x)
    expected = RUNTIME.values(model(NET), {"x": x.numpy()}, ["r"])["r"]
    np.testing.assert_allclose(hidden.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(module.to_model(), onnx.ModelProto)


@pytest.mark.parametrize(
    "proto, inner",
    [
        (
            model("""g (float[N,4,6,6] x) => (float[N,8,6,6] y)
                <float[8,2,3,3] w, float[8] b, float[8] s, float[8] t, float[8] m, float[8] v> {
                c = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w, b)
                n = BatchNormalization<epsilon = 0.01>(c, s, t, m, v)
                y = Relu(n) }"""),
            "c",
        ),
        (
            model("""g (float[N,5,4] x) => (float[N,5,8] y) <float[4,8] w, float[8] b> {
                c = MatMul(x, w)  n = Add(b, c)  y = Relu(n) }"""),
            "c",
        ),
    ],
    ids=["convolution and normalisation", "product and sum"],
)  # fmt: skip
def test_two_nodes_that_are_one_layer_learn_as_two_do(proto, inner):
    for stored in proto.graph.initializer:
        if stored.name == "v":
            stored.CopyFrom(numpy_helper.from_array(np.linspace(0.5, 2.0, 8, dtype=np.float32), "v"))
    shape = [3 if d.dim_param else d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for names in (["y"], ["y", inner]):
        module = OnnxModule(proto, batch_statistics=False)
        assert module._layers, "they are not taken for one layer"
        y = module.run({"x": x}, names)[0]
        (y.square() * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
        found[len(names)] = y.detach(), {n: p.grad for n, p in module.named_parameters()}
    (one, gradients), (two, expected) = found[1], found[2]
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)


def test_arithmetic_with_lengths_is_done_once_for_every_shape(monkeypatch):
    """Values, weights and random numbers are worked out every time."""
    proto = model(
        """g (float[N,6] x) => (float[N,2,3] y, float[M] noise) <float[2] factor, int64[1] last = {3}> {
        zero = Constant<value_ints = [0]>()
        one = Constant<value_ints = [1]>()
        minus = Constant<value_ints = [-1]>()
        shape = Shape(x)
        count = Slice(shape, zero, one)
        parts = Mul(count, one)
        target = Concat<axis = 0>(parts, minus, last)
        plain = Reshape(x, target)
        filled = ConstantOfShape(parts)
        noise = RandomNormalLike(filled)
        number = Cast<to = 1>(parts)
        scale = Mul(number, factor)
        total = ReduceSum<keepdims = 0>(scale)
        y = Add(plain, total) }"""
    )
    calls = []
    for name in ("Shape", "Slice", "Reshape"):
        function = FUNCTIONS[name]
        monkeypatch.setitem(
            FUNCTIONS, name, lambda call, *x, f=function, n=name: (calls.append(n), f(call, *x))[1]
        )
    module = OnnxModule(proto)
    for rows, asked in ((4, 3), (4, 1), (5, 3), (5, 1)):
        calls.clear()
        x = torch.randn(rows, 6)
        y, noise = module(x)
        y.sum().backward()
        expected = RUNTIME.session(proto).run({"x": x.numpy()}, ["y"])["y"]
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-5)
        assert len(calls) == asked and len(noise) == rows
    assert not torch.equal(noise, module(x)[1])
