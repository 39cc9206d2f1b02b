"""The steps that random graphs are made of: a value goes in, another comes out, None where nothing fits."""

from __future__ import annotations

from random_graphs import BATCH, Builder, Value

ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "HardSwish", "Softplus", "LeakyRelu", "Abs", "Elu"]


def activation(b: Builder, v: Value) -> Value:
    return b.node(b.pick(ACTIVATIONS), [v.name], v.shape, v.axis)


def join(b: Builder, v: Value) -> Value:
    """A sum or product with another value of the same shape, or with per-channel constants."""
    op = b.pick(["Add", "Mul", "Sub", "Max", "Min"])
    if b.maybe(2):
        other = b.same_shape(v).name
    else:
        shape = [1] * len(v.shape)
        shape[v.axis] = v.channels
        other = b.weight(*shape)
    return b.node(op, [v.name, other] if b.maybe(2) else [other, v.name], v.shape, v.axis)


def residual(b: Builder, v: Value) -> Value:
    """A branch that comes back to the shape of the value and is added to it."""
    branch = conv(b, v, n=v.channels, k=1, groups=1) if len(v.shape) == 4 else linear(b, v, n=v.channels)
    return b.node("Add", [activation(b, branch).name, v.name], v.shape, v.axis)


def concat(b: Builder, v: Value) -> Value:
    fitting = [
        w for w in b.values
        if len(w.shape) == len(v.shape) and w.axis == v.axis
        and all(p == q for i, (p, q) in enumerate(zip(v.shape, w.shape, strict=True)) if i != v.axis)
    ]  # fmt: skip
    parts = [v, *(b.pick(fitting) for _ in range(1 + b.choose(2)))]
    shape = list(v.shape)
    shape[v.axis] = sum(p.channels for p in parts)
    return b.node("Concat", [p.name for p in parts], tuple(shape), v.axis, axis=v.axis)


def split(b: Builder, v: Value) -> Value | None:
    """Two parts; they are multiplied where they are equal, else the second one goes on."""
    if v.channels < 4:
        return None
    first = v.channels // 2 if b.maybe(2) else 1 + b.choose(v.channels - 1)
    sizes = [first, v.channels - first]
    name = f"split_{len(b.nodes)}"
    b.node("Split", [v.name, b.constant(sizes)], v.shape, v.axis, axis=v.axis)
    b.nodes[-1].output[:] = [f"{name}_a", f"{name}_b"]
    shapes = [tuple(n if i == v.axis else d for i, d in enumerate(v.shape)) for n in sizes]
    halves = [Value(f"{name}_{s}", shape, v.axis) for s, shape in zip("ab", shapes, strict=True)]
    if sizes[0] == sizes[1]:
        return b.node("Mul", [h.name for h in halves], shapes[0], v.axis)
    b.values.append(halves[0])
    return halves[1]


def take(b: Builder, v: Value) -> Value | None:
    """Gather or Slice of channels."""
    if v.channels < 3:
        return None
    if b.maybe(2):
        index = [
            b.choose(v.channels) - (v.channels if b.maybe(3) else 0) for _ in range(2 + b.choose(v.channels))
        ]
        shape = tuple(len(index) if i == v.axis else d for i, d in enumerate(v.shape))
        return b.node("Gather", [v.name, b.constant(index)], shape, v.axis, axis=v.axis)
    start = b.choose(v.channels - 1)
    end = start + 1 + b.choose(v.channels - start)
    bounds = [
        start - v.channels if b.maybe(2) else start,
        end - v.channels if b.maybe(2) and end < v.channels else end,
    ]
    shape = tuple(end - start if i == v.axis else d for i, d in enumerate(v.shape))
    operands = [b.constant([bounds[0]]), b.constant([bounds[1]]), b.constant([v.axis - len(v.shape)])]
    return b.node("Slice", [v.name, *operands], shape, v.axis)


def pad(b: Builder, v: Value) -> Value:
    pads = [0] * 2 * len(v.shape)
    pads[v.axis], pads[v.axis + len(v.shape)] = b.choose(3), b.choose(3)
    shape = tuple(d + pads[i] + pads[i + len(v.shape)] for i, d in enumerate(v.shape))
    return b.node("Pad", [v.name, b.constant(pads)], shape, v.axis)


def softmax(b: Builder, v: Value) -> Value:
    """Over channels, or over another axis."""
    axis = v.axis if b.maybe(3) else len(v.shape) - 1
    return b.node("Softmax", [v.name], v.shape, v.axis, axis=axis)


def reduce(b: Builder, v: Value) -> Value:
    """Over channels, the axis kept: sums contract, others mix; scaled back onto the value."""
    op = b.pick(["ReduceMean", "ReduceMax", "ReduceL2"])
    shape = tuple(1 if i == v.axis else d for i, d in enumerate(v.shape))
    total = b.node(op, [v.name], shape, v.axis, axes=[v.axis])
    return b.node("Add", [v.name, total.name], v.shape, v.axis)


def tile(b: Builder, v: Value) -> Value:
    counts = [1] * len(v.shape)
    counts[v.axis] = 2
    shape = tuple(d * c for d, c in zip(v.shape, counts, strict=True))
    return b.node("Tile", [v.name, b.constant(counts)], shape, v.axis)


# --- images [N, C, H, W] ------------------------------------------------------------------------------


def conv(b: Builder, v: Value, n: int = 0, k: int = 0, groups: int = 0) -> Value:
    c, h, w = v.shape[1:]
    divisors = [g for g in (1, 1, 1, 2, 4, c) if c % g == 0]
    groups = groups or b.pick(divisors)
    n = n or groups * (1 + b.choose(max(8 // groups, 2)))
    k = k or b.pick([1, 3])
    inputs = [v.name, b.kernel(n, c // groups, k, k)] + ([b.weight(n)] if b.maybe(2) else [])
    return b.node("Conv", inputs, (BATCH, n, h, w), 1, group=groups, pads=[k // 2] * 4)


def conv_transpose(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    groups = b.pick([g for g in (1, 1, 2, c) if c % g == 0])
    each = 1 + b.choose(4)
    inputs = [v.name, b.kernel(c, each, 2, 2)] + ([b.weight(each * groups)] if b.maybe(2) else [])
    return b.node(
        "ConvTranspose", inputs, (BATCH, each * groups, 2 * h, 2 * w), 1, group=groups, strides=[2, 2]
    )


def quantized_conv(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    stored = b.constant(b.rng.integers(-100, 100, (6, c, 1, 1)), "int8")
    scale = b.constant(b.rng.uniform(0.001, 0.01, 6), "float32")
    kernel = b.node("DequantizeLinear", [stored, scale], (6, c, 1, 1), 0, axis=0)
    return b.node("Conv", [v.name, kernel.name], (BATCH, 6, h, w), 1)


def batch_norm(b: Builder, v: Value) -> Value:
    c = v.channels
    parameters = [b.weight(c, positive=True), b.weight(c), b.weight(c), b.weight(c, positive=True)]
    return b.node("BatchNormalization", [v.name, *parameters], v.shape, v.axis)


def instance_norm(b: Builder, v: Value) -> Value | None:
    if v.shape[2] * v.shape[3] < 4:
        return None
    return b.node(
        "InstanceNormalization",
        [v.name, b.weight(v.channels, positive=True), b.weight(v.channels)],
        v.shape,
        1,
    )


def pool(b: Builder, v: Value) -> Value | None:
    c, h, w = v.shape[1:]
    if h < 2 or w < 2 or h % 2 or w % 2:
        return None
    op = b.pick(["MaxPool", "AveragePool"])
    return b.node(op, [v.name], (BATCH, c, h // 2, w // 2), 1, kernel_shape=[2, 2], strides=[2, 2])


def resize(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    scales = b.constant([1, 1, 2, 2], "float32")
    return b.node("Resize", [v.name, "", scales], (BATCH, c, 2 * h, 2 * w), 1, mode="nearest")


def squeeze_excite(b: Builder, v: Value) -> Value:
    c = v.channels
    pooled = b.node("GlobalAveragePool", [v.name], (BATCH, c, 1, 1), 1)
    inner = activation(b, conv(b, pooled, n=1 + b.choose(4), k=1, groups=1))
    gate = b.node("Sigmoid", [conv(b, inner, n=c, k=1, groups=1).name], (BATCH, c, 1, 1), 1)
    return b.node("Mul", [v.name, gate.name], v.shape, 1)


def shuffle(b: Builder, v: Value) -> Value | None:
    c, h, w = v.shape[1:]
    groups = b.pick([g for g in (2, 3, 4) if c % g == 0] or [1])
    if groups == 1:
        return None
    wide = [BATCH, groups, c // groups, h, w]
    a = b.node("Reshape", [v.name, b.shape_operand(v, wide)], tuple(wide), 1)
    t = b.node("Transpose", [a.name], (BATCH, c // groups, groups, h, w), 1, perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [t.name, b.shape_operand(v, [BATCH, c, h, w])], v.shape, 1)


def group_norm(b: Builder, v: Value) -> Value | None:
    """As exporters write it: InstanceNormalization of groups, then a scale per channel."""
    c, h, w = v.shape[1:]
    if c % 2 or c < 4:
        return None
    flat = b.node("Reshape", [v.name, b.constant([0, 2, -1])], (BATCH, 2, c // 2 * h * w), 1)
    normed = b.node(
        "InstanceNormalization", [flat.name, b.weight(2, positive=True), b.weight(2)], flat.shape, 1
    )
    length = b.node("Shape", [v.name], (4,), 0)
    back = b.node("Reshape", [normed.name, length.name], v.shape, 1)
    return b.node("Mul", [back.name, b.weight(c, 1, 1)], v.shape, 1)


def depth_space(b: Builder, v: Value) -> Value | None:
    c, h, w = v.shape[1:]
    if c % 4 == 0 and b.maybe(2):
        mode = b.pick(["DCR", "CRD"])
        return b.node("DepthToSpace", [v.name], (BATCH, c // 4, 2 * h, 2 * w), 1, blocksize=2, mode=mode)
    if h % 2 == 0 and w % 2 == 0:
        return b.node("SpaceToDepth", [v.name], (BATCH, 4 * c, h // 2, w // 2), 1, blocksize=2)
    return None


def channels_last(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    a = b.node("Transpose", [v.name], (BATCH, h, w, c), 3, perm=[0, 2, 3, 1])
    m = b.node("Mul", [a.name, b.weight(c)], (BATCH, h, w, c), 3)
    return b.node("Transpose", [m.name], v.shape, 1, perm=[0, 3, 1, 2])


def to_tokens(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    flat = b.node("Reshape", [v.name, b.shape_operand(v, [BATCH, c, h * w])], (BATCH, c, h * w), 1)
    return b.node("Transpose", [flat.name], (BATCH, h * w, c), 2, perm=[0, 2, 1])


def to_vector(b: Builder, v: Value) -> Value:
    c, h, w = v.shape[1:]
    if b.maybe(2):
        return b.node("Flatten", [v.name], (BATCH, c * h * w), 1)
    return b.node("ReduceMean", [v.name], (BATCH, c), 1, axes=[2, 3], keepdims=0)


# --- tokens [N, T, C] and vectors [N, C] --------------------------------------------------------------


def linear(b: Builder, v: Value, n: int = 0) -> Value:
    n = n or 2 + b.choose(9)
    shape = (*v.shape[:-1], n)
    y = b.node("MatMul", [v.name, b.weight(v.channels, n, fan=v.channels)], shape, v.axis)
    return b.node("Add", [y.name, b.weight(n)], shape, v.axis) if b.maybe(2) else y


def gemm(b: Builder, v: Value) -> Value:
    n = 2 + b.choose(9)
    transposed = b.choose(2)
    shape = (n, v.channels) if transposed else (v.channels, n)
    return b.node(
        "Gemm", [v.name, b.weight(*shape, fan=v.channels), b.weight(n)], (BATCH, n), 1, transB=transposed
    )


def layer_norm(b: Builder, v: Value) -> Value:
    c = v.channels
    return b.node("LayerNormalization", [v.name, b.weight(c, positive=True), b.weight(c)], v.shape, v.axis)


def attention(b: Builder, v: Value) -> Value:
    heads, width = 1 + b.choose(4), 1 + b.choose(4)
    tokens, inner = v.shape[1], heads * width
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        p = linear(b, v, n=inner)
        p = b.node("Reshape", [p.name, b.shape_operand(v, [BATCH, tokens, heads, width])],
                   (BATCH, tokens, heads, width), 2)  # fmt: skip
        parts.append(b.node("Transpose", [p.name], (), 1, perm=perm))
    scores = b.node("MatMul", [parts[0].name, parts[1].name], (BATCH, heads, tokens, tokens), 1)
    p = b.node("Softmax", [scores.name], scores.shape, 1)
    mixed = b.node("MatMul", [p.name, parts[2].name], (BATCH, heads, tokens, width), 1)
    back = b.node("Transpose", [mixed.name], (BATCH, tokens, heads, width), 2, perm=[0, 2, 1, 3])
    return b.node(
        "Reshape", [back.name, b.shape_operand(v, [BATCH, tokens, inner])], (BATCH, tokens, inner), 2
    )


def einsum(b: Builder, v: Value) -> Value:
    n = 2 + b.choose(6)
    kernel = b.weight(v.channels, n, fan=v.channels)
    return b.node("Einsum", [v.name, kernel], (*v.shape[:-1], n), v.axis, equation="ntc,cd->ntd")


def recurrent(b: Builder, v: Value) -> Value:
    n = 2 + b.choose(4)
    op, gates = b.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    t = b.node("Transpose", [v.name], (v.shape[1], BATCH, v.channels), 2, perm=[1, 0, 2])
    weights = [b.weight(1, gates * n, v.channels, fan=v.channels), b.weight(1, gates * n, n, fan=n)]
    y = b.node(
        op, [t.name, *weights, b.weight(1, 2 * gates * n)], (v.shape[1], 1, BATCH, n), 3, hidden_size=n
    )
    s = b.node("Squeeze", [y.name, b.constant([1])], (v.shape[1], BATCH, n), 2)
    return b.node("Transpose", [s.name], (BATCH, v.shape[1], n), 2, perm=[1, 0, 2])


def first_token(b: Builder, v: Value) -> Value:
    return b.node("Gather", [v.name, b.constant(0)], (BATCH, v.channels), 1, axis=1)


def mean_token(b: Builder, v: Value) -> Value:
    return b.node("ReduceMean", [v.name], (BATCH, v.channels), 1, axes=[1], keepdims=0)


def to_image(b: Builder, v: Value) -> Value:
    return b.node("Unsqueeze", [v.name, b.constant([2, 3])], (BATCH, v.channels, 1, 1), 1)


def mix(b: Builder, v: Value) -> Value:
    """Something that freezes channels: one step among many, or nothing would be left to remove."""
    return b.pick([softmax, reduce, layer_norm] if v.axis == len(v.shape) - 1 else [softmax, reduce])(b, v)


_ANY = [activation, join, residual, concat, split, take, pad, tile]
STEPS = {
    4: [conv, conv, conv, conv, conv, conv, conv_transpose, quantized_conv, batch_norm, instance_norm, pool,
        resize, squeeze_excite, shuffle, group_norm, depth_space, channels_last, mix, to_tokens,
        to_vector, *_ANY],
    3: [linear, linear, linear, linear, mix, attention, attention, einsum, recurrent, first_token,
        mean_token, *_ANY],
    2: [gemm, gemm, gemm, linear, batch_norm, mix, to_image, *_ANY],
}  # fmt: skip
