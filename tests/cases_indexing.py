"""Operators that pick, join and extend positions of an axis."""

from __future__ import annotations

from cases import Case, image, tokens

CASES: list[Case] = [
    image(
        "Concat",
        "k = Conv(x, v)  t = Concat<axis = 1>(h, k)",
        [8, 6],
        "tie h[1] ~ t[1]{0..7}; tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; "
        "tie k[1] ~ t[1]{8..13}; tie k[0] ~ t[0]; tie k[2] ~ t[2]; tie k[3] ~ t[3]",
        c=14,
        more="float[6,4,1,1] v",
    ),
    image(
        "Concat with the input",
        "t = Concat<axis = 1>(x, h)",
        [8],
        "tie x[1] ~ t[1]{0..3}; tie x[0] ~ t[0]; tie x[2] ~ t[2]; tie x[3] ~ t[3]; "
        "tie h[1] ~ t[1]{4..11}; tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=12,
    ),
    image(
        "Concat with itself",
        "t = Concat<axis = -3>(h, h)",
        [8],
        "tie h[1] ~ t[1]{0..7}; tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; "
        "tie h[1] ~ t[1]{8..15}; tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=16,
    ),
    image(
        "Concat of rows",
        "k = Conv(x, v)  t = Concat<axis = 2>(h, k)",
        [8],
        "tie h[2] ~ t[2]{0..5}; tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[3] ~ t[3]; "
        "tie k[2] ~ t[2]{6..11}; tie k[0] ~ t[0]; tie k[1] ~ t[1]; tie k[3] ~ t[3]",
        more="float[8,4,1,1] v",
    ),
    image(
        "Concat in front of a sum",
        "k = Conv(x, v)  c = Concat<axis = 1>(k, k)  t = Add(c, h)",
        [4],
        "tie k[1] ~ c[1]{0..3}; tie k[0] ~ c[0]; tie k[2] ~ c[2]; tie k[3] ~ c[3]; "
        "tie k[1] ~ c[1]{4..7}; tie k[0] ~ c[0]; tie k[2] ~ c[2]; tie k[3] ~ c[3]",
        more="float[4,4,1,1] v",
    ),
    image(
        "Split",
        "a, b = Split<axis = 1>(h)  t = Mul(a, b)",
        [4],
        "tie h[1]{0..3} ~ a[1]; size input 1[0] = |a[1]|; tie h[0] ~ a[0]; tie h[2] ~ a[2]; "
        "tie h[3] ~ a[3]; tie h[1]{4..7} ~ b[1]; size input 1[1] = |b[1]|; tie h[0] ~ b[0]; "
        "tie h[2] ~ b[2]; tie h[3] ~ b[3]",
        c=4,
        opset=17,
    ),
    image(
        "Split, sizes as input",
        "a, t = Split<axis = 1>(h, s)",
        [2, 6],
        "tie h[1]{0..1} ~ a[1]; size input 1[0] = |a[1]|; tie h[0] ~ a[0]; tie h[2] ~ a[2]; "
        "tie h[3] ~ a[3]; tie h[1]{2..7} ~ t[1]; size input 1[1] = |t[1]|; tie h[0] ~ t[0]; "
        "tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=6,
        more="int64[2] s = {2, 6}",
    ),
    image(
        "Split, sizes as attribute",
        "a, t = Split<axis = 1, split = [2, 6]>(h)",
        [2, 6],
        "tie h[1]{0..1} ~ a[1]; size split[0] = |a[1]|; tie h[0] ~ a[0]; tie h[2] ~ a[2]; "
        "tie h[3] ~ a[3]; tie h[1]{2..7} ~ t[1]; size split[1] = |t[1]|; tie h[0] ~ t[0]; "
        "tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=6,
        opset=11,
    ),
    image(
        "Split, no sizes",
        "t, a = Split<axis = 1>(h)  b = Conv(a, u)  t2 = Identity(t)",
        [4, 4],
        "tie h[1]{0..3} ~ t[1]; size split[0] = |t[1]|; tie h[0] ~ t[0]; tie h[2] ~ t[2]; "
        "tie h[3] ~ t[3]; tie h[1]{4..7} ~ a[1]; size split[1] = |a[1]|; tie h[0] ~ a[0]; "
        "tie h[2] ~ a[2]; tie h[3] ~ a[3]",
        c=4,
        more="float[2,4,1,1] u",
        opset=7,
    ),
    image(
        "Split, number of outputs",
        "a, b, t = Split<axis = 1, num_outputs = 3>(h)  d = Mul(a, b)  e = Conv(d, u)",
        [3, 3, 2],
        "tie h[1]{0..2} ~ a[1]; size input 1[0] = |a[1]|; tie h[0] ~ a[0]; tie h[2] ~ a[2]; "
        "tie h[3] ~ a[3]; tie h[1]{3..5} ~ b[1]; size input 1[1] = |b[1]|; tie h[0] ~ b[0]; "
        "tie h[2] ~ b[2]; tie h[3] ~ b[3]; tie h[1]{6..7} ~ t[1]; size input 1[2] = |t[1]|; "
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=2,
        more="float[2,3,1,1] u",
        opset=18,
    ),
    image(
        "Split and Concat of a CSP block",
        """
        a, b = Split<axis = 1>(h)  k = Conv(b, v)  l = Add(k, b)  t = Concat<axis = 1>(a, b, l)""",
        [4, 4],
        "tie h[1]{0..3} ~ a[1]; size input 1[0] = |a[1]|; tie h[0] ~ a[0]; tie h[2] ~ a[2]; "
        "tie h[3] ~ a[3]; tie h[1]{4..7} ~ b[1]; size input 1[1] = |b[1]|; tie h[0] ~ b[0]; "
        "tie h[2] ~ b[2]; tie h[3] ~ b[3]",
        c=12,
        more="float[4,4,1,1] v",
    ),
    image(
        "Slice",
        "t = Slice(h, b, e, a)",
        [3, 5],
        "tie h[1]{2..6} ~ t[1]; size input 1[0] = |h[1]{0..1}|; size input 2[0] = |h[1]{0..6}|; "
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=5,
        more="int64[1] b = {2}, int64[1] e = {7}, int64[1] a = {1}",
    ),
    image(
        "Slice from the end",
        "t = Slice(h, b, e, a)",
        [4, 4],
        "tie h[1]{2..5} ~ t[1]; size input 1[0] = |h[1]{0..1}|; size input 2[0] = |h[1]{0..5}|; "
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=4,
        more="int64[1] b = {-6}, int64[1] e = {-2}, int64[1] a = {1}",
    ),
    image(
        "Slice to the end",
        "t = Slice(h, b, e, a)  r = Slice(h, z, b, a)  q = Conv(r, u)",
        [3, 5],
        "tie h[1]{3..7} ~ t[1]; size input 1[0] = |h[1]{0..2}|; size input 2[0] = |h[1]|; "
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=5,
        more="float[2,3,1,1] u, int64[1] z = {0}, int64[1] b = {3}, int64[1] e = {9223372036854775807},"
        " int64[1] a = {1}",
    ),
    image(
        "Slice attributes",
        "t = Slice<axes = [1], starts = [-6], ends = [-1]>(h)",
        [3, 5],
        "tie h[1]{2..6} ~ t[1]; size starts[0] = |h[1]{0..1}|; size ends[0] = |h[1]{0..6}|; "
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=5,
        opset=9,
    ),
    image(
        "Slice of places",
        "t = Slice(h, b, e, a, s)",
        [8],
        "freeze h[2]: Slice takes every 2. position; freeze h[3]: Slice takes every 2. position; "
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        more="int64[2] b = {0, 1}, int64[2] e = {9, 9}, int64[2] a = {2, 3}, int64[2] s = {2, 2}",
    ),
    image(
        "Slice in steps",
        "t = Slice(h, b, e, a, s)",
        [],
        "freeze h[1]: Slice takes every 2. position; tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=4,
        seen=True,
        more="int64[1] b = {0}, int64[1] e = {9}, int64[1] a = {1}, int64[1] s = {2}",
    ),
    image(
        "Slice with computed bounds",
        """
        m = ReduceMax<keepdims = 0>(x)  i = Cast<to = 7>(m)  z = Mul(i, o)  t = Slice(h, z, e, a)""",
        [],
        "tie h[0] ~ t[0]; freeze h[1]: the bounds of Slice are computed; "
        "freeze t[1]: the bounds of Slice are computed; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        more="int64[1] o = {0}, int64[1] e = {8}, int64[1] a = {1}",
    ),
    image(
        "Gather",
        "t = Gather<axis = 1>(h, i)",
        [4, 4],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; tie i[0] ~ t[1]; "
        "tie h[1]{6,0,7,3} ~ t[1]; index input 1 into h[1]",
        c=4,
        more="int64[4] i = {6, 0, -1, 3}",
    ),
    image(
        "Gather a shuffle",
        "t = Gather<axis = 1>(h, i)",
        [8],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; tie i[0] ~ t[1]; "
        "tie h[1]{0,4,1,5,2,6,..} ~ t[1]; index input 1 into h[1]",
        more="int64[8] i = {0, 4, 1, 5, 2, 6, 3, 7}",
    ),
    image(
        "Gather twice the same",
        "t = Gather<axis = 1>(h, i)",
        [4, 4],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; tie i[0] ~ t[1]; "
        "tie h[1]{0,4,1,1,0,2} ~ t[1]; index input 1 into h[1]",
        c=6,
        more="int64[6] i = {0, 4, 1, 1, 0, 2}",
    ),
    image(
        "Gather one channel",
        "g = Gather<axis = 1>(h, i)  t = Mul(h, g)",
        [7],
        "tie h[0] ~ g[0]; tie h[2] ~ g[2]; tie h[3] ~ g[3]; tie i[0] ~ g[1]; tie h[1]{3} ~ g[1]; "
        "index input 1 into h[1]",
        more="int64[1] i = {3}",
    ),
    tokens(
        "Gather one token",
        "g = Gather<axis = 1>(h, i)  t = Unsqueeze(g, a)",
        [8],
        "tie h[0] ~ g[0]; tie h[2] ~ g[1]; freeze h[1]: Gather indexes it",
        more="int64 i = {3}, int64[1] a = {1}",
    ),
    Case(
        "Gather of embeddings",
        """g (int64[N,5] x) => (float[N,5,3] y) <float[7,8] w, float[8,3] v> {
        h = Gather(w, x)  y = MatMul(h, v) }""",
        [8],
        "tie w[1] ~ h[2]; freeze w[0]: Gather indexes it; tie x[0] ~ h[0]; tie x[1] ~ h[1]",
        seen=True,
    ),
    tokens(
        "GatherElements",
        "t = GatherElements<axis = 2>(h, i)",
        [],
        "freeze h[0]: operator GatherElements is not in the table; "
        "freeze h[1]: operator GatherElements is not in the table; "
        "freeze h[2]: operator GatherElements is not in the table; "
        "freeze i[0]: operator GatherElements is not in the table; "
        "freeze i[1]: operator GatherElements is not in the table; "
        "freeze i[2]: operator GatherElements is not in the table; "
        "freeze t[0]: operator GatherElements is not in the table; "
        "freeze t[1]: operator GatherElements is not in the table; "
        "freeze t[2]: operator GatherElements is not in the table",
        c=2,
        more="int64[2,5,2] i = {0,1,2,3,4,5,6,7,0,1,0,1,2,3,4,5,6,7,0,1}",
        seen=True,
    ),
    tokens(
        "ScatterElements",
        "t = ScatterElements<axis = 2>(h, i, u)",
        [],
        "freeze h[0]: operator ScatterElements is not in the table; "
        "freeze h[1]: operator ScatterElements is not in the table; "
        "freeze h[2]: operator ScatterElements is not in the table; "
        "freeze i[0]: operator ScatterElements is not in the table; "
        "freeze i[1]: operator ScatterElements is not in the table; "
        "freeze i[2]: operator ScatterElements is not in the table; "
        "freeze u[0]: operator ScatterElements is not in the table; "
        "freeze u[1]: operator ScatterElements is not in the table; "
        "freeze u[2]: operator ScatterElements is not in the table; "
        "freeze t[0]: operator ScatterElements is not in the table; "
        "freeze t[1]: operator ScatterElements is not in the table; "
        "freeze t[2]: operator ScatterElements is not in the table",
        seen=True,
        more="int64[2,5,1] i = {0,1,2,3,4,5,6,7,0,1}, float[2,5,1] u",
    ),
    image(
        "Pad of places",
        "t = Pad(h, p)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[2] ~ t[2]{1..6}; size input 1[2] = |t[2]{0}|; "
        "size input 1[6] = |t[2]{7}|; tie h[3] ~ t[3]{1..6}; size input 1[3] = |t[3]{0}|; "
        "size input 1[7] = |t[3]{7}|",
        more="int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}",
    ),
    image(
        "Pad of channels",
        "t = Pad(h, p)",
        [8, 5],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]{2..9}; size input 1[1] = |t[1]{0..1}|; "
        "size input 1[5] = |t[1]{10..12}|; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=13,
        more="int64[8] p = {0, 2, 0, 0, 0, 3, 0, 0}",
    ),
    image(
        "Pad of channels, attribute",
        "t = Pad<pads = [0, 2, 0, 0, 0, 3, 0, 0], value = 0.5>(h)",
        [8, 5],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]{2..9}; size pads[1] = |t[1]{0..1}|; "
        "size pads[5] = |t[1]{10..12}|; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=13,
        opset=10,
    ),
    image(
        "Pad of one axis",
        "t = Pad(h, p, , a)",
        [8, 3],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]{0..7}; size input 1[0] = |t[1]{}|; "
        "size input 1[1] = |t[1]{8..10}|; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=11,
        opset=18,
        more="int64[2] p = {0, 3}, int64[1] a = {1}",
    ),
    image(
        "Pad of a shortcut",
        "k = Conv(x, v)  q = Pad(k, p)  t = Add(h, q)",
        [4, 4],
        "tie k[0] ~ q[0]; tie k[1] ~ q[1]{2..5}; size input 1[1] = |q[1]{0..1}|; "
        "size input 1[5] = |q[1]{6..7}|; tie k[2] ~ q[2]; tie k[3] ~ q[3]",
        more="float[4,4,1,1] v, int64[8] p = {0, 2, 0, 0, 0, 2, 0, 0}",
    ),
    image(
        "Pad mirrored",
        """t = Pad<mode = "reflect">(h, p)""",
        [],
        "tie h[0] ~ t[0]; freeze h[1]: Pad crops or mirrors it; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=10,
        more="int64[8] p = {0, 1, 0, 0, 0, 1, 0, 0}",
        seen=True,
    ),
    image(
        "Div by the number of channels",
        """
        s = Shape(h)  c = Gather(s, i)  f = Cast<to = 1>(c)  t = Div(h, f)""",
        [8],
        "tie h ~ t",
        free=True,
        more="int64[1] i = {1}",
    ),
    image(
        "Shape of places in a computation",
        """
        s = Shape(h)  c = Gather(s, i)  f = Cast<to = 1>(c)  t = Div(h, f)""",
        [8],
        "tie h[0] ~ h[0]; tie h[1] ~ h[1]; freeze h[2]: its length is used in a computation; tie h[3] ~ h[3]",
        free=True,
        more="int64[1] i = {2}",
    ),
    image(
        "Size",
        "s = Size(h)  f = Cast<to = 1>(s)  t = Div(h, f)",
        [],
        "freeze h[0]: its length is used in a computation; "
        "freeze h[1]: its length is used in a computation; "
        "freeze h[2]: its length is used in a computation; "
        "freeze h[3]: its length is used in a computation",
        seen=True,
    ),
    tokens(
        "GatherND of rows",
        "t = GatherND<batch_dims = 1>(h, i)",
        [8],
        "tie i[0] ~ t[0]; tie i[1] ~ t[1]; tie h[0] ~ t[0]; tie h[2] ~ t[2]; "
        "freeze h[1]: GatherND indexes it",
        more="int64[2,3,1] i = {0, 3, 1, 4, 4, 2}",
    ),
    tokens(
        "GatherND of places",
        "a = GatherND<batch_dims = 1>(h, i)  t = Unsqueeze(a, last)",
        [],
        "tie i[0] ~ a[0]; tie i[1] ~ a[1]; tie h[0] ~ a[0]; freeze h[1]: GatherND indexes it; "
        "freeze h[2]: GatherND indexes it",
        c=1,
        more="int64[2,3,2] i = {0, 7, 1, 1, 4, 4, 2, 2, 3, 0, 4, 6}, int64[1] last = {2}",
        seen=True,
    ),
]
