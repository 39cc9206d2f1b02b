"""Normalisations: per channel they tie, over channels they mix."""

from __future__ import annotations

from cases import Case, image, tokens

_BN = "float[8] scale, float[8] b, float[8] m, float[8] var"

CASES: list[Case] = [
    image(
        "BatchNormalization",
        "t = BatchNormalization(h, scale, b, m, var)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie m[0] ~ t[1]; "
        "tie var[0] ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        more=_BN,
    ),
    image(
        "BatchNormalization",
        "t = BatchNormalization(h, scale, b, m, var)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie m[0] ~ t[1]; "
        "tie var[0] ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        more=_BN,
        opset=7,
    ),
    image(
        "BatchNormalization",
        "t = BatchNormalization(h, scale, b, m, var)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie m[0] ~ t[1]; "
        "tie var[0] ~ t[1]; tie h[2] ~ t[2]; tie h[3] ~ t[3]",
        more=_BN,
        opset=9,
    ),
    tokens(
        "BatchNormalization in training mode",
        "t, n, o = BatchNormalization<training_mode = 1>(h, scale, b, m, var)",
        [],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie m[0] ~ t[1]; "
        "tie var[0] ~ t[1]; tie h[2] ~ t[2]; mix t[0]: BatchNormalization takes its statistics over it; "
        "mix t[2]: BatchNormalization takes its statistics over it",
        more="float[5] scale, float[5] b, float[5] m, float[5] var",
        seen=True,
    ),
    Case(
        "BatchNormalization of rows",
        """g (float[N,4] x) => (float[N,3] y)
        <float[4,8] w, float[8,3] v, float[8] scale, float[8] b, float[8] m, float[8] var> {
        h = MatMul(x, w)  t = BatchNormalization(h, scale, b, m, var)  y = MatMul(t, v) }""",
        [8],
        "tie h ~ t; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie m[0] ~ t[1]; tie var[0] ~ t[1]",
    ),
    image(
        "InstanceNormalization",
        "t = InstanceNormalization(h, scale, b)",
        [8],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie h[2] ~ t[2]; "
        "tie h[3] ~ t[3]; mix t[2]: InstanceNormalization normalises over it; "
        "mix t[3]: InstanceNormalization normalises over it",
        more="float[8] scale, float[8] b",
    ),
    image(
        "GroupNormalization per channel",
        "t = GroupNormalization<num_groups = 4>(h, scale, b)",
        [4],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[1] ~ h[1]{0,0,2,2,4,4,..}; "
        "size num_groups = |h[1]{0,2,4,6}|; tie scale[0] ~ h[1]; tie b[0] ~ h[1]",
        more="float[8] scale, float[8] b",
        opset=21,
    ),
    image(
        "GroupNormalization per group",
        "t = GroupNormalization<num_groups = 4>(h, scale, b)",
        [4],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie h[1] ~ h[1]{0,0,2,2,4,4,..}; "
        "size num_groups = |h[1]{0,2,4,6}|; tie scale[0] ~ h[1]{0,2,4,6}; tie b[0] ~ h[1]{0,2,4,6}",
        more="float[4] scale, float[4] b",
        opset=18,
        deprecated=True,
    ),
    tokens(
        "InstanceNormalization over channels",
        "t = InstanceNormalization(h, scale, b)",
        [],
        "tie h[0] ~ t[0]; tie h[1] ~ t[1]; tie scale[0] ~ t[1]; tie b[0] ~ t[1]; tie h[2] ~ t[2]; "
        "mix t[2]: InstanceNormalization normalises over it",
        more="float[5] scale, float[5] b",
        seen=True,
    ),
    image(
        "InstanceNormalization of groups",
        """
        i = Reshape(h, s)  n = InstanceNormalization(i, scale, b)  k = Shape(h)  r = Reshape(n, k)
        m = Mul(r, u)  t = Add(m, v)""",
        [4],
        "tie i[0] ~ n[0]; tie i[1] ~ n[1]; tie scale[0] ~ n[1]; tie b[0] ~ n[1]; tie i[2] ~ n[2]; "
        "mix n[2]: InstanceNormalization normalises over it",
        more="int64[3] s = {0, 4, -1}, float[4] scale, float[4] b, float[8,1,1] u, float[8,1,1] v",
    ),
    tokens(
        "LayerNormalization",
        "t = LayerNormalization(h, scale, b)",
        [8],
        "tie h ~ t; tie scale[0] ~ h[2]; tie b[0] ~ h[2]; normalise h[2]",
        more="float[8] scale, float[8] b",
        seen=True,
    ),
    tokens(
        "LayerNormalization over tokens only",
        """
        a = Transpose<perm = [0, 2, 1]>(h)  n = LayerNormalization(a, scale)
        t = Transpose<perm = [0, 2, 1]>(n)""",
        [8],
        "tie a ~ n; tie scale[0] ~ a[2]; normalise a[2]",
        more="float[5] scale",
    ),
    image(
        "LayerNormalization from axis 2",
        "t = LayerNormalization<axis = 2>(h, scale)",
        [8],
        "tie h ~ t; tie scale[1] ~ h[3]; tie scale[0] ~ h[2]; "
        "mix t[2]: LayerNormalization normalises over it; "
        "mix t[3]: LayerNormalization normalises over it",
        more="float[6,6] scale",
    ),
    tokens(
        "RMSNormalization",
        "t = RMSNormalization(h, scale)",
        [8],
        "tie h ~ t; tie scale[0] ~ h[2]; normalise h[2]",
        more="float[8] scale",
        opset=23,
        seen=True,
    ),
    tokens(
        "ReduceMean written-out LayerNorm",
        """
        m = ReduceMean<axes = [-1]>(h)  d = Sub(h, m)  two = Constant<value_float = 2.0>()  p = Pow(d, two)
        v = ReduceMean<axes = [-1]>(p)  e = Constant<value_float = 0.001>()  w = Add(v, e)  r = Sqrt(w)
        n = Div(d, r)  k = Mul(n, s)  t = Add(k, b)""",
        [8],
        "tie h[0] ~ m[0]; tie h[1] ~ m[1]; contract h[2] . 1/8",
        more="float[8] s, float[8] b",
        seen=True,
    ),
    tokens(
        "ReduceMean written-out RMSNorm",
        """
        two = Constant<value_float = 2.0>()  p = Pow(h, two)  v = ReduceMean(p, a)
        e = Constant<value_float = 0.001>()  w = Add(v, e)  r = Sqrt(w)  i = Reciprocal(r)
        n = Mul(h, i)  t = Mul(n, s)""",
        [8],
        "tie p[0] ~ v[0]; tie p[1] ~ v[1]; contract p[2] . 1/8",
        more="float[8] s, int64[1] a = {-1}",
        opset=18,
        seen=True,
    ),
    image(
        "LpNormalization",
        "t = LpNormalization<axis = 1>(h)",
        [],
        "tie h ~ t; mix t[1]: LpNormalization normalises over it",
        seen=True,
    ),
    image(
        "LpNormalization of rows",
        "t = LpNormalization(h)",
        [8],
        "tie h ~ t; mix t[3]: LpNormalization normalises over it",
    ),
    image(
        "LRN",
        "t = LRN<size = 3, alpha = 2.0>(h)",
        [],
        "tie h ~ t; mix t[1]: LRN normalises over it",
        seen=True,
    ),
    image(
        "MeanVarianceNormalization",
        "t = MeanVarianceNormalization<axes = [0, 2, 3]>(h)",
        [8],
        "tie h ~ t; mix t[0]: MeanVarianceNormalization normalises over it; "
        "mix t[2]: MeanVarianceNormalization normalises over it; "
        "mix t[3]: MeanVarianceNormalization normalises over it",
    ),
    image(
        "MeanVarianceNormalization over channels",
        "t = MeanVarianceNormalization<axes = [0, 1, 2, 3]>(h)",
        [],
        "tie h ~ t; mix t[0]: MeanVarianceNormalization normalises over it; "
        "mix t[1]: MeanVarianceNormalization normalises over it; "
        "mix t[2]: MeanVarianceNormalization normalises over it; "
        "mix t[3]: MeanVarianceNormalization normalises over it",
        seen=True,
    ),
]
