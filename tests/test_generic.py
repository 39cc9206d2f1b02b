"""Generic photographs in place of data: the pack, the crops, which inputs are images, the normalisation."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxmerge
from onnxmerge.data.conventions import COLOUR, GREY, candidates
from onnxmerge.data.generic.photographs import generic_images
from onnxmerge.data.generic.stand_ins import generic_dataset
from onnxmerge.data.image_inputs import image_input
from onnxmerge.data.images import ImageOptions
from onnxmerge.runtime import Runtime
from onnxmerge.validation import class_scores, output_kinds

PACK = Path(__file__).parents[1] / "onnxmerge" / "data" / "generic" / "images"
SHARED = Path(__file__).parents[2] / "shared"
BYTES, CAFFE, UNIT, _, SYMMETRIC, IMAGENET, CIFAR = COLOUR[:7]


@pytest.fixture(scope="module")
def runtime():
    return Runtime.create("cpu", 1)


def network(
    normalisation, shape=("n", 3, 32, 32), dtype=TensorProto.FLOAT, head=(), batch_norm=False, seed=0
):
    """A convolution that expects this normalisation: BatchNorm folded into its bias, or kept."""
    generator = np.random.default_rng(seed)
    channels, last = (shape[1], False) if shape[1] in (1, 3) else (shape[3], True)
    pixels = generic_images(64, (32, 32), channels, seed=5)
    # The first layer's statistics under the right input, as training would have left them.
    values = normalisation.apply(pixels).transpose(0, 3, 1, 2)
    weight = generator.normal(0, 1, (16, channels, 1, 1)).astype(np.float32)
    summed = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], values)
    mean, deviation = summed.mean((0, 2, 3)), summed.std((0, 2, 3))
    beta = generator.normal(-0.2, 0.5, 16).astype(np.float32)
    nodes, tensors, data = list(head), [], "x" if not head else head[-1].output[0]
    if last:
        nodes.append(helper.make_node("Transpose", [data], ["planes"], perm=[0, 3, 1, 2]))
        data = "planes"
    if batch_norm:
        nodes.append(helper.make_node("Conv", [data, "w"], ["c"]))
        nodes.append(helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["z"]))
        parts = {"w": weight, "g": np.ones(16), "b": beta, "m": mean, "v": deviation**2}
    else:
        nodes.append(helper.make_node("Conv", [data, "w", "b"], ["z"]))
        parts = {"w": weight / deviation[:, None, None, None], "b": beta - mean / deviation}
    nodes.append(helper.make_node("Relu", ["z"], ["y"]))
    tensors += [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in parts.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def dataset(model, runtime, **options):
    return generic_dataset(model, runtime.session(model).inputs, runtime, **options)


def names(found) -> set[str]:
    """The plausible conventions without the order of colours."""
    return {convention.name for convention in found.plausible.conventions}


def test_the_pack_is_small_and_every_picture_has_its_provenance():
    files = sorted(PACK.glob("*.webp"))
    assert len(files) >= 20
    assert sum(f.stat().st_size for f in PACK.iterdir()) < 3_000_000
    rows = [line for line in (PACK / "PROVENANCE.md").read_text().splitlines() if ".webp" in line]
    assert [row.split("|")[1].strip() for row in sorted(rows)] == [f.name for f in files]
    assert all(cell.strip() for row in rows for cell in row.split("|")[1:6])


@pytest.mark.parametrize("size, channels", [((32, 32), 3), ((20, 70), 1), ((224, 160), 3)])
def test_images_are_pixels_of_the_size_asked_for(size, channels):
    images = generic_images(12, size, channels, seed=3)
    assert images.shape == (12, *size, channels) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 255
    assert images.std(axis=(1, 2, 3)).min() > 5  # no flat ones
    assert np.array_equal(images, generic_images(12, size, channels, seed=3))
    assert not np.array_equal(images, generic_images(12, size, channels, seed=4))


def test_images_have_the_statistics_of_photographs():
    images = generic_images(200, (32, 32), 3, seed=0)
    assert 90 < images.mean() < 150
    assert 30 < images.std(axis=(1, 2)).mean() < 70
    flat = images.mean(axis=3)
    neighbours = np.corrcoef(flat[:, :, :-1].ravel(), flat[:, :, 1:].ravel())[0, 1]
    assert 0.8 < neighbours < 0.99  # noise has 0, a blurred picture 1


@pytest.mark.parametrize(
    "shape, layout",
    [
        ((1, 3, 32, 32), "nchw"),
        ((1, 48, 64, 3), "nhwc"),
        (("n", 1, 28, 28), "nchw"),
        (("n", 3, "h", "w"), "nchw"),
        ((1, 3, 32, 192), "nchw"),
        ((1, 1, 49, 10), None),
        ((1, 76, 32, 1), None),
        ((1, 1, 1, 5), None),
        ((1, 4, 32, 32), None),
        ((1, 3, 4, 4), None),
        ((1, 3, 32), None),
    ],
)
def test_which_shapes_are_images(shape, layout, runtime):
    rank = len(shape)
    channels = 3 if 3 in (shape[1], shape[-1]) else shape[-1] if shape[-1] == 1 else shape[1]
    nodes = [helper.make_node("Conv", ["t" if shape[-1] == channels != shape[1] else "x", "w"], ["y"])]
    if shape[-1] == channels != shape[1]:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
    weight = np.ones((2, channels, *[1] * (rank - 2)), np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = image_input(model, runtime.session(model).inputs)
    assert (found.layout if found else None) == layout


def test_an_image_feeds_a_convolution_and_is_no_sound(runtime):
    flat = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 28, 28))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((784, 2), np.float32), "w")],
    )
    model = helper.make_model(flat, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert dataset(model, runtime) is None
    model = network(UNIT, (1, 1, 64, 64))
    model.graph.input[0].name = model.graph.node[0].input[0] = "log_mel"
    assert dataset(model, runtime) is None


@pytest.mark.parametrize(
    "truth, shape",
    [
        (BYTES, ("n", 3, 32, 32)),
        (BYTES, ("n", 1, 64, 64)),
        (UNIT, ("n", 3, 96, 96)),
        (UNIT, ("n", 80, 80, 3)),
        (SYMMETRIC, ("n", 3, 96, 96)),
        (IMAGENET, ("n", 3, 96, 96)),
        (CIFAR, ("n", 3, 32, 32)),
    ],
)
def test_batch_norm_tells_the_convention(truth, shape, runtime):
    found = dataset(network(truth, shape, batch_norm=True), runtime, samples=64)
    assert found.plausible.conventions[0].name == truth.name
    assert names(found).isdisjoint({"0..255", CAFFE.name} - {truth.name}), "the range is never in doubt"
    assert found.fit.made_up and found.plausible.meaningful is None
    channels = 3 if shape[1] not in (1, 3) else 1
    for convention, part in zip(found.plausible.conventions, found.fit.parts(), strict=True):
        (values,) = map(np.asarray, part.arrays.values())
        if convention.per_image:
            continue
        low, high = (convention.apply(np.full((1, 1, 1, 3), value)).reshape(-1) for value in (0.0, 255.0))
        axes = tuple(i for i in range(4) if i != channels)
        share = (values.mean(axes) - low[: values.shape[channels]]) / (high - low)[: values.shape[channels]]
        assert ((share > 0.25) & (share < 0.75)).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("truth", [BYTES, UNIT, SYMMETRIC, CIFAR])
def test_what_a_folded_batch_norm_expects_is_plausible(truth, seed, runtime):
    found = dataset(network(truth, seed=seed), runtime, samples=64)
    assert truth.name in names(found)


def test_where_nothing_tells_much_is_plausible(runtime):
    model = network(UNIT)
    bias = next(t for t in model.graph.initializer if t.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(16, np.float32), "b"))
    found = dataset(model, runtime, samples=64)
    assert {"0..255", "0..1", "-1..1", "ImageNet mean and std"} <= names(found) | {"ImageNet mean and std"}
    assert {c.order for c in found.plausible.conventions} == {"rgb", "bgr"}
    assert not found.plausible.clear


def test_every_convention_gets_its_share_and_fresh_images(runtime):
    found = dataset(network(UNIT), runtime, samples=256)
    parts, fresh = found.fit.parts(), found.fresh.parts()
    assert len(parts) == len(fresh) == len(found.plausible.conventions) > 1
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and min(sizes) >= 16
    assert len({len(part) for part in fresh}) == 1 and len(fresh[0]) >= 32
    assert [part.conventions for part in parts] == [(str(c),) for c in found.plausible.conventions]
    # The proof is the same pictures under every convention, and none that was fitted to.
    shown = [
        (part.arrays["x"][:].transpose(0, 2, 3, 1) * c.std + c.mean) / c.scale
        for c, part in zip(found.plausible.conventions, fresh, strict=True)
        if c.order == "rgb" and not c.per_image
    ]
    assert len(shown) > 1 and all(np.allclose(shown[0], other, atol=0.05) for other in shown)
    used = np.concatenate([p.arrays["x"][:].std((1, 2, 3)) for p in parts[:1]])
    assert not np.isin(fresh[0].arrays["x"][:].std((1, 2, 3)).round(5), used.round(5)).any()


def test_a_normalisation_inside_the_graph_is_part_of_the_model(runtime):
    head = [helper.make_node("Sub", ["x", "half"], ["s"]), helper.make_node("Div", ["s", "half"], ["d"])]
    model = network(SYMMETRIC, head=head)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(127.5), "half"))
    found = dataset(model, runtime, samples=64)
    assert "0..255" in names(found) and found.plausible.conventions[0].name.startswith("0..255")


def test_bytes_are_fed_as_bytes(runtime):
    cast = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    found = dataset(network(BYTES, dtype=TensorProto.UINT8, head=cast), runtime, samples=64)
    values = found.fit.arrays["x"][:]
    assert values.dtype == np.uint8 and values.max() > 100
    assert names(found) == {"0..255"}


def test_given_options_win(runtime):
    options = ImageOptions(mean=(0.5,), std=(0.25,), scale=1 / 255)
    found = dataset(network(BYTES), runtime, samples=16, images=options)
    values = found.fit.arrays["x"][:]
    assert values.min() >= -2 and values.max() <= 2
    assert found.plausible.clear
    assert "mean 0.5, std 0.25" in str(found.plausible.conventions[0])


def test_the_given_order_of_colours_is_that_of_the_numbers_too(runtime):
    plain, swapped = (
        dataset(network(BYTES), runtime, samples=16, images=options).fit.arrays["x"][:]
        for options in (ImageOptions(mean=(1, 2, 3)), ImageOptions(mean=(3, 2, 1), order="bgr"))
    )
    assert np.allclose(plain[:, ::-1], swapped) and not np.allclose(plain, swapped)


def test_a_fixed_batch_an_open_size_and_given_shapes(runtime):
    fixed = dataset(network(UNIT, (4, 3, 32, 32)), runtime, samples=64)
    assert fixed.fit.batch == 4 and all(len(part) % 4 == 0 for part in fixed.fit.parts())
    assert all(len(feed["x"]) == 4 for feed in fixed.fit.feeds())
    open_size = network(UNIT, ("n", 3, "h", "w"))
    assert dataset(open_size, runtime, samples=2).fit.arrays["x"].shape[1:] == (3, 224, 224)
    shapes = {"x": (1, 3, 40, 48)}
    assert dataset(open_size, runtime, samples=2, shapes=shapes).fit.arrays["x"].shape[1:] == (3, 40, 48)


def test_conventions_are_told_apart_by_what_they_feed():
    pixels = generic_images(4, (32, 32), 3, seed=0)
    fed = {str(c): c.apply(pixels) for c in COLOUR}
    assert len(fed) == len(COLOUR)
    values = list(fed.values())
    for i, one in enumerate(values):
        assert not any(np.allclose(one, other, rtol=1e-3) for other in values[i + 1 :])
    caffe = next(c for c in COLOUR if c.name == CAFFE.name and c.order == "bgr").apply(pixels)
    assert np.allclose(caffe[..., 0], pixels[..., 2] - 103.939, atol=1e-3)
    assert {c.order for c in GREY} == {"grey"}
    assert [str(c) for c in candidates(3, whole=True)] == ["0..255, RGB", "0..255, BGR"]


def test_other_inputs_get_made_up_values(runtime):
    model = network(UNIT)
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, ("n", 1)))
    model.graph.node.append(helper.make_node("ReduceSum", ["gain"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, None))
    found = dataset(model, runtime, samples=64)
    for data in (found.fit, found.fresh):
        assert data.arrays["x"].shape[1:] == (3, 32, 32) and data.arrays["gain"].shape == (len(data), 1)
        runtime.session(model).run(next(iter(data.feeds())))


@pytest.mark.skipif(not (SHARED / "models").exists(), reason="the shared models are not here")
@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet56_bn", "CIFAR mean and std"),
        ("resnet56_folded", "CIFAR mean and std"),
        ("resnet8", "0..255"),
        ("mlperftiny_mobilenetv1_0.25_vww", "0..1"),
        ("mlperftiny_dscnn_kws_dequant", None),
    ],
)
def test_real_models(name, expected, runtime):
    model = onnx.load(SHARED / "models" / f"{name}.onnx")
    scores = class_scores(output_kinds(model))
    found = dataset(model, runtime, samples=64, scores=scores)
    assert (found is None) == (expected is None)
    if found is not None:
        assert expected in names(found)
    if found is not None and len(scores) and name.startswith("resnet"):
        far = {"0..255"} if expected != "0..255" else {"0..1", "-1..1", "ImageNet mean and std"}
        assert names(found).isdisjoint(far), "the range shows"


CAFFE_NET = Path(__file__).parents[1] / "models" / "cifar_caffe.onnx"


def test_caffe_s_numbers_are_plausible_for_a_net_that_takes_them(runtime):
    model = onnx.load(CAFFE_NET)
    found = dataset(model, runtime, samples=64, scores=[model.graph.output[0].name])
    assert f"{CAFFE.name}, BGR" in {str(c) for c in found.plausible.conventions}
    assert found.plausible.meaningful


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the shared images are not here")
def test_what_is_said_without_data_is_not_above_the_truth():
    """A guess of 0..1 would be confirmed by 100% of answers that are all the same, where 35% are."""
    tiles = np.asarray(
        Image.open(sorted((SHARED / "data" / "cifar10").glob("test_*.webp"))[0]).convert("RGB")
    )
    pixels = tiles.reshape(-1, 32, 32, 3)[:500]
    convention = next(c for c in COLOUR if c.name == CAFFE.name and c.order == "bgr")
    images = np.ascontiguousarray(convention.apply(pixels).transpose(0, 3, 1, 2))

    def answers(model) -> np.ndarray:
        return next(iter(Runtime.create("cpu", 1).session(model).run({"x": images}).values())).argmax(1)

    def changed(options: ImageOptions | None) -> tuple[float, float]:
        result = onnxmerge.optimize(CAFFE_NET, macs=0.7, images=options, threads=1)
        real = float((answers(str(CAFFE_NET)) != answers(result.model)).mean())
        return 1 - result.report["parity"]["top1_agreement"], real

    said, real = changed(None)
    assert said >= real - 0.05
    _, stated = changed(ImageOptions(mean=convention.mean[::-1], order="bgr"))
    assert real <= 2 * stated + 0.01, "not knowing costs at most as much again"
