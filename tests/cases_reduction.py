"""Reductions and pooling."""

from __future__ import annotations

from cases import Case, image, tokens

CASES: list[Case] = [
    image(
        "ReduceMean of places",
        "t = ReduceMean<axes = [2, 3]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; contract h[2] . 1/6; contract h[3] . 1/6",
    ),
    image(
        "ReduceMean of places, axes as input",
        "t = ReduceMean(h, a)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; contract h[2] . 1/6; contract h[3] . 1/6",
        opset=18,
        more="int64[2] a = {2, 3}",
    ),
    image(
        "ReduceSum that a global response is divided by",
        """
        l = ReduceL2<axes = [2, 3]>(h)  m = ReduceMean<axes = [1]>(l)  e = Constant<value_float = 0.001>()
        a = Add(m, e)  d = Div(l, a)  k = Mul(h, d)  t = Add(k, h)""",
        [8],
        "tie l[0] ~ m__sum[0]; tie l[2] ~ m__sum[2]; tie l[3] ~ m__sum[3]; contract l[1] . 1",
    ),
    image(
        "ReduceMean of channels",
        "t = ReduceMean<axes = [1]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1/8",
        c=1,
        seen=True,
    ),
    image(
        "ReduceMax of channels",
        "t = ReduceMax<axes = [1]>(h)",
        [],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; mix h[1]: ReduceMax reduces over it",
        c=1,
        seen=True,
    ),
    image(
        "ReduceMin of channels",
        "t = ReduceMin<axes = [1]>(h)",
        [],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; mix h[1]: ReduceMin reduces over it",
        c=1,
        seen=True,
    ),
    image(
        "ReduceLogSumExp of channels",
        "t = ReduceLogSumExp<axes = [1]>(h)",
        [],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; mix h[1]: ReduceLogSumExp reduces over it",
        c=1,
        seen=True,
    ),
    image(
        "ReduceProd of channels",
        "a = Sigmoid(h)  t = ReduceProd<axes = [1]>(a)",
        [],
        "tie a[0] ~ t[0]; tie a[2] ~ t[2]; tie a[3] ~ t[3]; mix a[1]: ReduceProd reduces over it",
        c=1,
        seen=True,
    ),
    image(
        "ReduceSum of channels",
        "t = ReduceSum(h, a)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1",
        c=1,
        more="int64[1] a = {1}",
    ),
    image(
        "ReduceSum of channels, attribute",
        "t = ReduceSum<axes = [1]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1",
        c=1,
        opset=11,
    ),
    image(
        "ReduceL1 of channels",
        "t = ReduceL1<axes = [-3]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1",
        c=1,
    ),
    image(
        "ReduceL2 of channels",
        "t = ReduceL2<axes = [1]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1",
        c=1,
    ),
    image(
        "ReduceSumSquare of channels",
        "t = ReduceSumSquare<axes = [1]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; contract h[1] . 1",
        c=1,
    ),
    image(
        "ReduceLogSum of channels",
        "a = Sigmoid(h)  t = ReduceLogSum<axes = [1]>(a)",
        [8],
        "tie a[0] ~ t[0]; tie a[2] ~ t[2]; tie a[3] ~ t[3]; contract a[1] . 1",
        c=1,
    ),
    image(
        "ReduceMax of places, no axis kept",
        """
        a = ReduceMax<axes = [2, 3], keepdims = 0>(h)  t = Unsqueeze(a, u)""",
        [8],
        "tie h[0] ~ a[0]; tie h[1] ~ a[1]; mix h[2]: ReduceMax reduces over it; "
        "mix h[3]: ReduceMax reduces over it",
        more="int64[2] u = {2, 3}",
    ),
    image(
        "ReduceMean of everything",
        "a = ReduceMean<keepdims = 0>(h)  t = Mul(a, h)",
        [8],
        "contract h[0] . 1/2; contract h[1] . 1/8; contract h[2] . 1/6; contract h[3] . 1/6",
        seen=True,
    ),
    image("ReduceSum of nothing", "t = ReduceSum<noop_with_empty_axes = 1>(h)", [8], "tie h ~ t"),
    image(
        "ArgMax over channels",
        "a = ArgMax<axis = 1>(h)  t = Cast<to = 1>(a)",
        [],
        "tie h[0] ~ a[0]; tie h[2] ~ a[2]; tie h[3] ~ a[3]; "
        "mix h[1]: ArgMax turns its positions into numbers",
        c=1,
        seen=True,
    ),
    image(
        "ArgMax over rows",
        "a = ArgMax<axis = 2>(h)  t = Cast<to = 1>(a)",
        [8],
        "tie h[0] ~ a[0]; tie h[1] ~ a[1]; tie h[3] ~ a[3]; "
        "mix h[2]: ArgMax turns its positions into numbers",
    ),
    image(
        "ArgMin over channels",
        "a = ArgMin<axis = 1>(h)  t = Cast<to = 1>(a)",
        [],
        "tie h[0] ~ a[0]; tie h[2] ~ a[2]; tie h[3] ~ a[3]; "
        "mix h[1]: ArgMin turns its positions into numbers",
        c=1,
        seen=True,
    ),
    tokens(
        "TopK over channels",
        "t, i = TopK(h, k)",
        [],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[0] ~ i[0]; tie h[1] ~ i[1]; mix h[2]: TopK orders it",
        c=2,
        more="int64[1] k = {2}",
        seen=True,
    ),
    tokens(
        "TopK over tokens",
        "t, i = TopK<axis = 1>(h, k)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[0] ~ i[0]; tie h[2] ~ i[2]; mix h[1]: TopK orders it",
        more="int64[1] k = {2}",
    ),
    image("MaxPool", "t = MaxPool<kernel_shape = [2, 2]>(h)", [8], "tie h[0] ~ t[0]; tie h[1] ~ t[1]"),
    image(
        "MaxPool with indices",
        "m, i = MaxPool<kernel_shape = [2, 2]>(h)  j = Cast<to = 1>(i)  t = Mul(m, j)",
        [],
        "tie h[0] ~ m[0]; tie h[1] ~ m[1]; tie m[1] ~ i[1]; "
        "freeze i[1]: MaxPool outputs indices over all channels",
        seen=True,
    ),
    image(
        "AveragePool",
        "t = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
    ),
    image("LpPool", "t = LpPool<kernel_shape = [2, 2]>(h)", [8], "tie h[0] ~ t[0]; tie h[1] ~ t[1]"),
    image("GlobalAveragePool", "t = GlobalAveragePool(h)", [8], "tie h[0] ~ t[0]; tie h[1] ~ t[1]"),
    image("GlobalMaxPool", "t = GlobalMaxPool(h)", [8], "tie h[0] ~ t[0]; tie h[1] ~ t[1]"),
    image("GridSample", "t = GridSample(h, v)", [8], "tie h[1] ~ t[1]", more="float[2,3,3,2] v"),
    image(
        "RoiAlign",
        "t = RoiAlign<output_height = 2, output_width = 2>(h, v, i)",
        [8],
        "tie h[1] ~ t[1]",
        more="float[2,4] v, int64[2] i = {0, 1}",
    ),
]
