"""Recurrent layers, and quantised values and weights."""

from __future__ import annotations

from cases import Case, image, tokens

_LAYER = """g (float[5,N,4] x) => (float[5,N,3] y) <float[1,{g},4] w, float[1,{g},6] r, float[1,{b}] b,
    float[6,3] v{more}> {{ {body}  z = Squeeze(h, a)  y = MatMul(z, v) }}"""


def _recurrent(
    name: str, gates: int, body: str, widths: list[int], says: str, more: str = "", **options
) -> Case:
    text = _LAYER.format(g=6 * gates, b=12 * gates, body=body, more=f", int64[1] a = {{1}} {more}")
    return Case(name, text, widths, says, **options)


RECURRENT: list[Case] = [
    _recurrent(
        "LSTM",
        4,
        "h = LSTM<hidden_size = 6>(x, w, r, b)",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
    ),
    _recurrent(
        "GRU",
        3,
        "h = GRU<hidden_size = 6, linear_before_reset = 1>(x, w, r, b)",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
    ),
    Case(
        "GRU, opset 7",
        """g (float[5,N,4] x) => (float[5,N,3] y)
        <float[1,18,4] w, float[1,18,6] r, float[1,36] b, float[6,3] v> {
        h = GRU<hidden_size = 6>(x, w, r, b)  z = Squeeze<axes = [1]>(h)  y = MatMul(z, v) }""",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
        opset=7,
    ),
    _recurrent(
        "RNN",
        1,
        "h = RNN<hidden_size = 6>(x, w, r, b)",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]; tie r[1] ~ r[2]; "
        "tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; size hidden_size = |r[2]|",
    ),
    _recurrent(
        "LSTM with all operands",
        4,
        """l = Constant<value_ints = [5, 3]>()  m = Cast<to = 6>(l)
        h, s, c = LSTM<hidden_size = 6>(x, w, r, b, m, i, j, p)""",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie i[2] ~ r[2]; "
        "tie j[2] ~ r[2]; tie p[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; tie s[2] ~ r[2]; "
        "tie c[2] ~ r[2]; size hidden_size = |r[2]|",
        more=", float[1,2,6] i, float[1,2,6] j, float[1,18] p",
    ),
    Case(
        "LSTM with a state from outside",
        """g (float[5,N,4] x, float[1,N,6] q) => (float[5,N,3] y)
        <float[1,24,4] w, float[1,24,6] r, float[6,3] v, int64[1] a = {1}> {
        h = LSTM<hidden_size = 6>(x, w, r, , , q, q)  z = Squeeze(h, a)  y = MatMul(z, v) }""",
        [],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie q[2] ~ r[2]; tie q[2] ~ r[2]; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
    ),
    Case(
        "LSTM in both directions",
        """g (float[5,N,4] x) => (float[5,N,3] y)
        <float[2,24,4] w, float[2,24,6] r, float[2,48] b, float[12,3] v, int64[3] s = {0, 0, -1}> {
        h = LSTM<hidden_size = 6, direction = "bidirectional">(x, w, r, b)
        k = Transpose<perm = [0, 2, 1, 3]>(h)  z = Reshape(k, s)  y = MatMul(z, v) }""",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie b[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
    ),
    Case(
        "LSTM behind LSTM",
        """g (float[5,N,4] x) => (float[N,3] y)
        <float[1,24,4] w, float[1,24,6] r, float[1,20,6] w2, float[1,20,5] r2, float[5,3] v, int64[1] a = {1},
        int64[1] o = {0}> {
        h = LSTM<hidden_size = 6>(x, w, r)  k = Squeeze(h, a)  l, m, c = LSTM<hidden_size = 5>(k, w2, r2)
        z = Squeeze(m, o)  y = MatMul(z, v) }""",
        [6, 5],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie h[3] ~ r[2]; size hidden_size = |r[2]|",
    ),
    Case(
        "LSTM with a state of zeros",
        """g (float[5,N,4] x) => (float[5,N,3] y)
        <float[1,24,4] w, float[1,24,6] r, float[6,3] v, int64[1] a = {1}, int64[1] i = {1},
        int64[1] one = {1},
        int64[1] six = {6}> {
        d = Shape(x)  n = Gather(d, i)  s = Concat<axis = 0>(one, n, six)  q = ConstantOfShape(s)
        h = LSTM<hidden_size = 6>(x, w, r, , , q, q)  z = Squeeze(h, a)  y = MatMul(z, v) }""",
        [6],
        "contract x[2] . w[2]; contract r[2] . 1; tie w[1] ~ r[2]{0,1,2,3,4,5,..}; "
        "tie r[1] ~ r[2]{0,1,2,3,4,5,..}; tie q[2] ~ r[2]; tie q[2] ~ r[2]; tie h[3] ~ r[2]; "
        "size hidden_size = |r[2]|",
    ),
]

QUANTIZATION: list[Case] = [
    image(
        "QuantizeLinear",
        """
        q = QuantizeLinear(h, s, z)  t = DequantizeLinear(q, s, z)""",
        [8],
        "tie h ~ q",
        more="float s = {0.1}, uint8 z = {128}",
    ),
    image(
        "DequantizeLinear of weights per channel",
        """
        w = DequantizeLinear<axis = 0>(v, scale, z)  t = Conv(h, w, b)""",
        [8, 6],
        "tie v ~ w; tie scale[0] ~ v[0]; tie z[0] ~ v[0]",
        c=6,
        more="int8[6,8,1,1] v, float[6] scale, int8[6] z, float[6] b",
    ),
    image(
        "DequantizeLinear of weights per tensor",
        """
        w = DequantizeLinear(v, s)  t = Conv(h, w)""",
        [8, 6],
        "tie v ~ w",
        c=6,
        more="int8[6,8,1,1] v, float s = {0.05}",
        opset=10,
    ),
    image(
        "DequantizeLinear of a quantised bias",
        """
        w = DequantizeLinear<axis = 0>(v, scale)  c = DequantizeLinear<axis = 0>(b, scale)
        t = Conv(h, w, c)""",
        [8, 6],
        "tie v ~ w; tie scale[0] ~ v[0]",
        c=6,
        more="int8[6,8,1,1] v, float[6] scale, int32[6] b",
    ),
    tokens(
        "DequantizeLinear of input channels",
        """
        w = DequantizeLinear<axis = 0>(v, scale)  t = MatMul(h, w)""",
        [8, 6],
        "tie v ~ w; tie scale[0] ~ v[0]",
        c=6,
        more="int8[8,6] v, float[8] scale",
    ),
    tokens(
        "DequantizeLinear in blocks",
        """
        w = DequantizeLinear<axis = 0, block_size = 4>(v, scale)  t = MatMul(h, w)""",
        [],
        "tie v ~ w; freeze v[0]: DequantizeLinear works in blocks; "
        "freeze v[1]: DequantizeLinear works in blocks",
        c=6,
        more="int8[8,6] v, float[2,6] scale",
        opset=21,
        seen=True,
    ),
    tokens(
        "DynamicQuantizeLinear",
        """
        k = Mul(h, u)  q, s, z = DynamicQuantizeLinear(k)  t = DequantizeLinear(q, s, z)""",
        [],
        "tie k ~ q; mix k[0]: its quantisation range is taken over all elements; "
        "mix k[1]: its quantisation range is taken over all elements; "
        "mix k[2]: its quantisation range is taken over all elements",
        more="float[8] u = {1.0, 99.0, 1.0, 1.0, 33.0, 1.0, 1.0, 11.0}",
        seen=True,
    ),
]

CASES = RECURRENT + QUANTIZATION
