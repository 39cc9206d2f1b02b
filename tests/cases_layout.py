"""Operators that rearrange: the same elements under other axes."""

from __future__ import annotations

from cases import Case, image, tokens

CASES: list[Case] = [
    image(
        "Transpose there and back",
        "a = Transpose<perm = [0, 2, 3, 1]>(h)  t = Transpose<perm = [0, 3, 1, 2]>(a)",
        [8],
        "tie a[0] ~ t[0]; tie a[3] ~ t[1]; tie a[1] ~ t[2]; tie a[2] ~ t[3]",
    ),
    Case(
        "Transpose without perm",
        """g (float[N,4] x) => (float[3,N] y) <float[4,8] w, float[3,8] v> {
        h = MatMul(x, w)  t = Transpose(h)  y = MatMul(v, t) }""",
        [8],
        "tie h[1] ~ t[0]; tie h[0] ~ t[1]",
    ),
    Case(
        "Flatten",
        """g (float[N,4,3,3] x) => (float[N,5] y) <float[8,4,1,1] w, float[72,5] v> {
        h = Conv(x, w)  t = Flatten(h)  y = Gemm(t, v) }""",
        [8],
        "tie h[0] ~ t[0]; choose (h[1]: tie h[1]{0,0,0,0,0,0,..} ~ t[1]; "
        "freeze h[2]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[2]: tie h[2]{0,0,0,0,0,0,..} ~ t[1]{0,1,2,9,10,11,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[3]: tie h[3]{0,0,0,0,0,0,..} ~ t[1]{0,3,6,9,12,15,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[2]: another axis of the node carries the channels)",
    ),
    Case(
        "Flatten from the front",
        """g (float[1,4,3,3] x) => (float[1,5] y) <float[8,4,1,1] w, float[72,5] v> {
        h = Conv(x, w)  t = Flatten<axis = 0>(h)  y = Gemm(t, v) }""",
        [8],
        "choose (h[1]: tie h[1]{0,0,0,0,0,0,..} ~ t[1]; "
        "freeze h[2]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[2]: tie h[2]{0,0,0,0,0,0,..} ~ t[1]{0,1,2,9,10,11,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[3]: tie h[3]{0,0,0,0,0,0,..} ~ t[1]{0,3,6,9,12,15,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[2]: another axis of the node carries the channels)",
    ),
    Case(
        "Reshape as Flatten",
        """g (float[N,4,3,3] x) => (float[N,5] y)
        <float[8,4,1,1] w, float[72,5] v, int64[2] s = {-1, 72}> {
        h = Conv(x, w)  t = Reshape(h, s)  y = Gemm(t, v) }""",
        [8],
        "size input 1[1] = |t[1]|; tie h[0] ~ t[0]; choose (h[1]: tie h[1]{0,0,0,0,0,0,..} ~ t[1]; "
        "freeze h[2]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[2]: tie h[2]{0,0,0,0,0,0,..} ~ t[1]{0,1,2,9,10,11,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[3]: another axis of the node carries the channels) | "
        "(h[3]: tie h[3]{0,0,0,0,0,0,..} ~ t[1]{0,3,6,9,12,15,..}; "
        "freeze h[1]: another axis of the node carries the channels; "
        "freeze h[2]: another axis of the node carries the channels)",
    ),
    Case(
        "Reshape as Flatten of channels last",
        """g (float[N,4,3,3] x) => (float[N,5] y)
        <float[8,4,1,1] w, float[72,5] v, int64[2] s = {0, -1}> {
        h = Conv(x, w)  a = Transpose<perm = [0, 2, 3, 1]>(h)  t = Reshape(a, s)  y = Gemm(t, v) }""",
        [8],
        "size input 1[0] = |t[0]|; tie a[0] ~ t[0]; choose (a[1]: tie a[1]{0,0,0,0,0,0,..} ~ t[1]; "
        "freeze a[2]: another axis of the node carries the channels; "
        "freeze a[3]: another axis of the node carries the channels) | "
        "(a[2]: tie a[2]{0,0,0,0,0,0,..} ~ t[1]{0,1,2,3,4,5,..}; "
        "freeze a[1]: another axis of the node carries the channels; "
        "freeze a[3]: another axis of the node carries the channels) | "
        "(a[3]: tie a[3]{0,0,0,0,0,0,..} ~ t[1]{0,8,16,24,32,40,..}; "
        "freeze a[1]: another axis of the node carries the channels; "
        "freeze a[2]: another axis of the node carries the channels)",
    ),
    image(
        "Reshape of a channel shuffle",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3, 4]>(a)  t = Reshape(b, r)""",
        [4],
        "size input 1[0] = |t[0]|; size input 1[2] = |t[2]|; size input 1[3] = |t[3]|; "
        "tie b[0] ~ t[0]; choose (b[1]: tie b[1]{0,0,1,1,2,2,..} ~ t[1]; "
        "freeze b[2]: another axis of the node carries the channels) | "
        "(b[2]: tie b[2]{0,0,0,0,1,1,..} ~ t[1]{0,2,4,6,1,3,..}; "
        "freeze b[1]: another axis of the node carries the channels); tie b[3] ~ t[2]; "
        "tie b[4] ~ t[3]",
        more="int64[5] s = {0, 2, 4, 6, 6}, int64[4] r = {0, -1, 6, 6}",
    ),
    image(
        "Reshape by Shape, Gather and Concat",
        """
        z = Shape(h)  n = Gather(z, i)  c = Gather(z, j)  a = Concat<axis = 0>(n, c, m)  b = Reshape(h, a)
        d = Relu(b)  e = Shape(h)  t = Reshape(d, e)""",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]; tie d[0] ~ t[0]; "
        "tie d[1] ~ t[1]; choose (t[2]: tie d[2] ~ t[2]{0,0,0,0,0,0,..}; "
        "freeze t[3]: another axis of the node carries the channels) | "
        "(t[3]: tie d[2] ~ t[3]{0,1,2,3,4,5,..}; "
        "freeze t[2]: another axis of the node carries the channels)",
        free=True,
        more="int64[1] i = {0}, int64[1] j = {1}, int64[1] m = {-1}",
    ),
    image(
        "Reshape to a computed shape",
        """
        m = ReduceMax<keepdims = 0>(x)  i = Cast<to = 7>(m)  z = Mul(i, zero)  o = Add(z, s)
        t = Reshape(h, o)""",
        [],
        "freeze t[0]: the shape that Reshape takes is computed; "
        "freeze t[1]: the shape that Reshape takes is computed; "
        "freeze t[2]: the shape that Reshape takes is computed; "
        "freeze t[3]: the shape that Reshape takes is computed; tie h ~ t",
        more="int64 zero = {0}, int64[4] s = {2, 8, 6, 6}",
        seen=True,
    ),
    tokens(
        "Reshape of heads",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, s)
        d = Transpose<perm = [0, 2, 3, 1]>(c)  e = MatMul(b, d)  p = Softmax(e)  q = MatMul(x, u)
        f = Reshape(q, s)  g = Transpose<perm = [0, 2, 1, 3]>(f)  i = MatMul(p, g)
        j = Transpose<perm = [0, 2, 1, 3]>(i)  t = Reshape(j, r)""",
        [4],
        "size input 1[0] = |t[0]|; size input 1[1] = |t[1]|; size input 1[2] = |t[2]|; "
        "tie j[0] ~ t[0]; tie j[1] ~ t[1]; choose (j[2]: tie j[2]{0,0,1,1,2,2,..} ~ t[2]; "
        "freeze j[3]: another axis of the node carries the channels) | "
        "(j[3]: tie j[3]{0,0,0,0,1,1,..} ~ t[2]{0,2,4,6,1,3,..}; "
        "freeze j[2]: another axis of the node carries the channels)",
        more="float[4,8] v, float[4,8] u, int64[4] s = {0, 0, 4, 2}, int64[3] r = {0, 0, 8}",
    ),
    tokens(
        "Reshape of two wide heads",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, s)
        d = Transpose<perm = [0, 2, 3, 1]>(c)  e = MatMul(b, d)  p = Softmax(e)  q = MatMul(x, u)
        f = Reshape(q, s)  g = Transpose<perm = [0, 2, 1, 3]>(f)  i = MatMul(p, g)
        j = Transpose<perm = [0, 2, 1, 3]>(i)  t = Reshape(j, r)""",
        [4, 4],
        "size input 1[0] = |t[0]|; size input 1[1] = |t[1]|; size input 1[2] = |t[2]|; "
        "tie j[0] ~ t[0]; tie j[1] ~ t[1]; choose (j[2]: tie j[2]{0,0,0,0,1,1,..} ~ t[2]; "
        "freeze j[3]: another axis of the node carries the channels) | "
        "(j[3]: tie j[3]{0,0,1,1,2,2,..} ~ t[2]{0,4,1,5,2,6,..}; "
        "freeze j[2]: another axis of the node carries the channels)",
        more="float[4,8] v, float[4,8] u, int64[4] s = {0, 0, 2, 4}, int64[3] r = {0, 0, 8}",
    ),
    tokens(
        "Expand of grouped keys",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, r)
        d = Transpose<perm = [0, 2, 1, 3]>(c)  e = Unsqueeze(d, i)  f = Expand(e, z)  l = Reshape(f, w)
        m = Transpose<perm = [0, 1, 3, 2]>(l)  n = MatMul(b, m)  p = Softmax(n)  o = MatMul(p, l)
        q = Transpose<perm = [0, 2, 1, 3]>(o)  t = Reshape(q, u)""",
        [2],
        "tie e[4] ~ f[4]; tie e[3] ~ f[3]; tie f[2] ~ f[2]; tie e[1] ~ f[1]; tie e[0] ~ f[0]; "
        "size input 1[1] = |f[1]|; size input 1[2] = |f[2]|; size input 1[3] = |f[3]|; "
        "size input 1[4] = |f[4]|",
        more="float[4,4] v, int64[4] s = {0, 0, 4, 2}, int64[4] r = {0, 0, 2, 2}, int64[1] i = {2},"
        " int64[5] z = {1, 2, 2, 5, 2}, int64[4] w = {0, 4, 5, 2}, int64[3] u = {0, 0, 8}",
    ),
    image(
        "Squeeze",
        "p = GlobalAveragePool(h)  a = Squeeze(p, s)  t = Unsqueeze(a, s)",
        [8],
        "tie p[0] ~ a[0]; tie p[1] ~ a[1]",
        more="int64[2] s = {2, 3}",
    ),
    image(
        "Squeeze, attributes",
        "p = GlobalAveragePool(h)  a = Squeeze<axes = [2, 3]>(p)  t = Unsqueeze<axes = [2, 3]>(a)",
        [8],
        "tie p[0] ~ a[0]; tie p[1] ~ a[1]",
        opset=9,
    ),
    image(
        "Expand",
        "p = GlobalAveragePool(h)  t = Expand(p, s)",
        [8],
        "tie t[3] ~ t[3]; tie t[2] ~ t[2]; tie p[1] ~ t[1]; tie p[0] ~ t[0]; "
        "size input 1[1] = |t[1]|; size input 1[2] = |t[2]|; size input 1[3] = |t[3]|",
        more="int64[4] s = {1, 8, 6, 6}",
    ),
    image(
        "Expand over channels",
        "m = ReduceMean<axes = [2]>(x)  n = Slice(m, b, e, a)  k = Expand(n, s)  t = Mul(k, h)",
        [8],
        "tie n[3] ~ k[3]; tie n[2] ~ k[2]; tie k[1] ~ k[1]; tie n[0] ~ k[0]; "
        "size input 1[1] = |k[1]|; size input 1[2] = |k[2]|",
        more="int64[4] s = {1, 8, 1, 1}, int64[1] b = {0}, int64[1] e = {1}, int64[1] a = {1}",
    ),
    image(
        "Expand by the shape of another",
        "p = GlobalAveragePool(h)  s = Shape(h)  t = Expand(p, s)",
        [8],
        "tie t[3] ~ t[3]; tie t[2] ~ t[2]; tie p[1] ~ t[1]; tie p[0] ~ t[0]; tie h[0] ~ t[0]; "
        "tie h[1] ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        free=True,
    ),
    image(
        "Expand of a constant",
        "s = Shape(h)  k = Expand(u, s)  t = Mul(k, h)",
        [8],
        "tie k[3] ~ k[3]; tie k[2] ~ k[2]; tie u[1] ~ k[1]; tie k[0] ~ k[0]; tie h[0] ~ k[0]; "
        "tie h[1] ~ k[1]; tie h[2] ~ k[2]; tie h[3] ~ k[3]",
        free=True,
        more="float[1,8,1,1] u",
    ),
    tokens(
        "Expand of a stored token by a computed shape",
        """
        s = Shape(h)  n = Gather(s, z)  a = Concat<axis = 0>(n, m, m)  e = Equal(a, r)  w = Where(e, q, a)
        k = Expand(c, w)  t = Concat<axis = 1>(k, h)""",
        [8],
        "tie c[2] ~ k[2]; tie c[1] ~ k[1]; tie k[0] ~ k[0]; tie h[0] ~ k[0]; size input 1[1] = |k[1]|",
        more="float[1,1,8] c, int64[1] z = {0}, int64[1] m = {-1}, int64[3] r = {-1, -1, -1},"
        " int64[3] q = {1, 1, 1}",
    ),
    tokens(
        "Tile as often as there are samples",
        """
        s = Shape(h)  n = Gather(s, z)  m = Concat<axis = 0>(n, o, o)  p = MatMul(c, u)  k = Tile(p, m)
        d = Shape(k)  e = Gather(d, w)  f = Cast<to = 1>(e)  g = Div(k, f)  t = Concat<axis = 1>(g, h)""",
        [8],
        "tie p[0]{0,0} ~ k[0]; tie p[1] ~ k[1]; tie p[2] ~ k[2]",
        more="float[1,3,4] c, float[4,8] u, int64[1] z = {0}, int64[1] o = {1}, int64[1] w = {2}",
    ),
    image(
        "Tile of places",
        "p = GlobalAveragePool(h)  t = Tile(p, r)",
        [8],
        "tie p[0] ~ t[0]; tie p[1] ~ t[1]; tie p[2]{0,0} ~ t[2]; tie p[3]{0,0,0} ~ t[3]",
        more="int64[4] r = {1, 1, 2, 3}",
    ),
    image(
        "Tile of channels",
        "t = Tile(h, r)",
        [8],
        "tie h[0] ~ t[0]; tie h[1]{0,1,2,3,4,5,..} ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=24,
        more="int64[4] r = {1, 3, 1, 1}",
    ),
    image(
        "ConstantOfShape",
        "s = Shape(h)  k = ConstantOfShape<value = float[1] {2.0}>(s)  t = Mul(k, h)",
        [8],
        "tie k ~ k; tie h[0] ~ k[0]; tie h[1] ~ k[1]; tie h[2] ~ k[2]; tie h[3] ~ k[3]",
        free=True,
    ),
    image(
        "DepthToSpace",
        "t = DepthToSpace<blocksize = 2>(h)",
        [2],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]{0,1,0,1,0,1,..}",
        c=2,
    ),
    image(
        "DepthToSpace by columns",
        """t = DepthToSpace<blocksize = 2, mode = "CRD">(h)""",
        [2],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]{0,0,0,0,1,1,..}",
        c=2,
    ),
    image(
        "SpaceToDepth",
        "t = SpaceToDepth<blocksize = 2>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[1]{0,1,2,3,4,5,..} ~ t[1]",
        c=32,
    ),
    image(
        "Resize by scales",
        "t = Resize(h, , s)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        more="float[4] s = {1.0, 1.0, 2.0, 2.0}",
    ),
    image(
        "Resize by sizes",
        "t = Resize(h, , , s)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; size input 3[0] = |t[0]|; size input 3[1] = |t[1]|; "
        "size input 3[2] = |t[2]|; size input 3[3] = |t[3]|",
        more="int64[4] s = {2, 8, 9, 9}",
    ),
    image(
        "Resize by computed sizes",
        """
        s = Shape(h)  c = Slice(s, z, b)  d = Concat<axis = 0>(c, e)  t = Resize(h, , , d)""",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[0] ~ t[0]; tie h[1] ~ t[1]; "
        "size input 3[2] = |t[2]|; size input 3[3] = |t[3]|",
        free=True,
        more="int64[1] z = {0}, int64[1] b = {2}, int64[2] e = {12, 12}",
    ),
    image(
        "Resize of two axes",
        "t = Resize<axes = [2, 3]>(h, , s)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        more="float[2] s = {2.0, 2.0}",
        opset=18,
    ),
    image(
        "Resize",
        "t = Resize(h, s)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        more="float[4] s = {1.0, 1.0, 2.0, 2.0}",
        opset=10,
    ),
    image(
        "Resize of channels",
        "t = Resize(h, , s)",
        [],
        "tie h[0] ~ t[0]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        c=16,
        more="float[4] s = {1.0, 2.0, 1.0, 1.0}",
        seen=True,
    ),
    image(
        "Upsample",
        "t = Upsample(h, s)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        more="float[4] s = {1.0, 1.0, 2.0, 2.0}",
        opset=9,
    ),
    image(
        "Upsample, attribute",
        "t = Upsample<scales = [1.0, 1.0, 2.0, 2.0]>(h)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]",
        opset=7,
    ),
    tokens(
        "ReverseSequence",
        "t = ReverseSequence<batch_axis = 0, time_axis = 1>(h, l)",
        [8],
        "tie h[2] ~ t[2]",
        more="int64[2] l = {3, 5}",
    ),
    tokens(
        "Trilu",
        "t = Trilu(h)",
        [],
        "freeze h[0]: operator Trilu is not in the table; "
        "freeze h[1]: operator Trilu is not in the table; "
        "freeze h[2]: operator Trilu is not in the table; "
        "freeze t[0]: operator Trilu is not in the table; "
        "freeze t[1]: operator Trilu is not in the table; "
        "freeze t[2]: operator Trilu is not in the table",
        seen=True,
    ),
]
