"""Operators that treat every position alike, and those that look like it but do not."""

from __future__ import annotations

from cases import Case, image, tokens

CASES: list[Case] = [
    image("Relu", "t = Relu(h)", [8], "tie h ~ t"),
    image("Relu", "t = Relu(h)", [8], "tie h ~ t", opset=7),
    image("LeakyRelu", "t = LeakyRelu<alpha = 0.1>(h)", [8], "tie h ~ t"),
    image("PRelu per channel", "t = PRelu(h, s)", [8], "tie h ~ t; tie s[0] ~ t[1]", more="float[8,1,1] s"),
    image("PRelu shared", "t = PRelu(h, s)", [8], "tie h ~ t", more="float[1] s"),
    image("Clip", "lo = Constant<value_float = -0.5>()  t = Clip(h, lo)", [8], "tie h ~ t"),
    image("Clip attributes", "t = Clip<min = -0.5, max = 1.0>(h)", [8], "tie h ~ t", opset=7),
    image("HardSwish", "t = HardSwish(h)", [8], "tie h ~ t"),
    image("HardSigmoid", "t = HardSigmoid(h)", [8], "tie h ~ t"),
    image("Mish", "t = Mish(h)", [8], "tie h ~ t", opset=18),
    image("Gelu", "t = Gelu(h)", [8], "tie h ~ t", opset=20),
    image("Swish", "t = Swish(h)", [8], "tie h ~ t", opset=24),
    image("Elu", "t = Elu(h)", [8], "tie h ~ t"),
    image("Softplus", "t = Softplus(h)", [8], "tie h ~ t"),
    image(
        "Erf written-out Gelu",
        """
        half = Constant<value_float = 0.5>()  one = Constant<value_float = 1.0>()
        root = Constant<value_float = 1.4142>()
        a = Div(h, root)  b = Erf(a)  c = Add(b, one)  d = Mul(h, c)  t = Mul(d, half)""",
        [8],
        "tie a ~ b",
    ),
    image(
        "Mul written-out HardSwish",
        """
        three = Constant<value_float = 3.0>()  six = Constant<value_float = 6.0>()
        zero = Constant<value_float = 0.0>()
        a = Add(h, three)  b = Clip(a, zero, six)  c = Mul(h, b)  t = Div(c, six)""",
        [8],
        "tie h ~ c; tie b ~ c",
    ),
    image("Add per channel", "t = Add(h, s)", [8], "tie h ~ t; tie s[1] ~ t[1]", more="float[1,8,1,1] s"),
    image("Mul per channel", "t = Mul(s, h)", [8], "tie s[0] ~ t[1]; tie h ~ t", more="float[8,1,1] s"),
    image("Sub scalar", "t = Sub(h, s)", [8], "tie h ~ t", more="float[1] s"),
    image(
        "Div per channel",
        "t = Div(h, scale)",
        [8],
        "tie h ~ t; tie scale[0] ~ t[1]",
        more="float[8,1,1] scale",
    ),
    image(
        "Pow per channel",
        "a = Abs(h)  t = Pow(a, scale)",
        [8],
        "tie a ~ t; tie scale[0] ~ t[1]",
        more="float[8,1,1] scale",
    ),
    image("Min per channel", "t = Min(h, s)", [8], "tie h ~ t; tie s[0] ~ t[1]", more="float[8,1,1] s"),
    image(
        "Max of three",
        "a = Neg(h)  t = Max(h, a, s)",
        [8],
        "tie h ~ t; tie a ~ t; tie s[1] ~ t[1]",
        more="float[1,8,1,1] s",
    ),
    image(
        "Add of two producers",
        "k = Conv(x, v)  t = Add(h, k)",
        [8],
        "tie h ~ t; tie k ~ t",
        more="float[8,4,1,1] v",
    ),
    image(
        "Add of one map to all",
        "k = Conv(x, v)  t = Add(h, k)",
        [8],
        "tie h ~ t; tie k[0] ~ t[0]; tie k[2] ~ t[2]; tie k[3] ~ t[3]",
        more="float[1,4,1,1] v",
    ),
    image(
        "Sum of three",
        "k = Conv(x, v)  t = Sum(h, k, h)",
        [8],
        "tie h ~ t; tie k ~ t; tie h ~ t",
        more="float[8,4,1,1] v",
    ),
    image(
        "Mean of two", "k = Conv(x, v)  t = Mean(h, k)", [8], "tie h ~ t; tie k ~ t", more="float[8,4,1,1] v"
    ),
    image(
        "Where",
        "k = Conv(x, v)  b = Greater(h, k)  t = Where(b, h, k)",
        [8],
        "tie b ~ t; tie h ~ t; tie k ~ t",
        more="float[8,4,1,1] v",
    ),
    image(
        "LessOrEqual",
        "z = Constant<value_float = 0.0>()  b = LessOrEqual(h, z)  t = Cast<to = 1>(b)",
        [8],
        "tie h ~ b",
    ),
    image(
        "And",
        """
        z = Constant<value_float = 0.0>()  b = Less(h, z)  k = Conv(x, v)  c = Less(k, z)
        d = And(b, c)  e = Not(d)  t = Cast<to = 1>(e)""",
        [8],
        "tie b ~ d; tie c ~ d",
        more="float[8,4,1,1] v",
    ),
    image("Identity", "a = Identity(h)  t = Dropout(a)", [8], "tie h ~ a"),
    image("Dropout", "t = Dropout(h)", [8], "tie h ~ t", opset=9),
    image("Cast", "a = Cast<to = 11>(h)  t = Cast<to = 1>(a)", [8], "tie a ~ t"),
    image(
        "CastLike", "t = CastLike(h, x)", [8], "tie h ~ t; tie x[0] ~ t[0]; tie x[2] ~ t[2]; tie x[3] ~ t[3]"
    ),
    image(
        "Softmax over channels",
        "t = Softmax<axis = 1>(h)",
        [],
        "tie h ~ t; mix t[1]: Softmax normalises over it",
        seen=True,
    ),
    image("Softmax over places", "t = Softmax(h)", [8], "tie h ~ t; mix t[3]: Softmax normalises over it"),
    image(
        "Softmax from an axis on",
        "t = Softmax<axis = 1>(h)",
        [],
        "tie h ~ t; mix t[1]: Softmax normalises over it; mix t[2]: Softmax normalises over it; "
        "mix t[3]: Softmax normalises over it",
        opset=11,
        seen=True,
    ),
    image(
        "Softmax of the last axis",
        "t = Softmax<axis = 3>(h)",
        [8],
        "tie h ~ t; mix t[3]: Softmax normalises over it",
        opset=11,
    ),
    image(
        "LogSoftmax",
        "t = LogSoftmax<axis = 1>(h)",
        [],
        "tie h ~ t; mix t[1]: LogSoftmax normalises over it",
        seen=True,
    ),
    image(
        "Hardmax",
        "t = Hardmax<axis = 1>(h)",
        [],
        "tie h ~ t; mix t[1]: Hardmax normalises over it",
        seen=True,
    ),
    tokens(
        "CumSum over channels",
        "t = CumSum(h, i)",
        [],
        "tie h ~ t; mix t[2]: CumSum runs along it",
        more="int64[1] i = {2}",
        seen=True,
    ),
    tokens(
        "CumSum over tokens",
        "t = CumSum(h, i)",
        [8],
        "tie h ~ t; mix t[1]: CumSum runs along it",
        more="int64[1] i = {1}",
    ),
    image(
        "Mul squeeze-excite",
        """
        p = GlobalAveragePool(h)  a = Conv(p, v)  b = Relu(a)
        c = Conv(b, w)  d = Sigmoid(c)  t = Mul(h, d)""",
        [8, 6],
        "tie h ~ t; tie d[0] ~ t[0]; tie d[1] ~ t[1]",
        more="float[6,8,1,1] v, float[8,6,1,1] w",
    ),
]
