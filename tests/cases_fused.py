"""Attention, and the fused operators of onnxruntime."""

from __future__ import annotations

from cases import Case, image, tokens

_MS = "com.microsoft"

ATTENTION: list[Case] = [
    tokens(
        "Attention of 3 axes",
        """
        k = MatMul(x, v)  l = MatMul(x, u)  t = Attention<q_num_heads = 4, kv_num_heads = 4>(h, k, l)""",
        [4],
        "tie h[2] ~ k[2]{0,0,2,2,4,4,..}; tie k[2] ~ k[2]{0,0,2,2,4,4,..}; "
        "tie l[2] ~ k[2]{0,0,2,2,4,4,..}; tie t[2] ~ k[2]{0,0,2,2,4,4,..}; "
        "size q_num_heads = |k[2]{0,2,4,6}|; size kv_num_heads = |k[2]{0,2,4,6}|",
        more="float[4,8] v, float[4,8] u",
        opset=23,
    ),
    tokens(
        "Attention of grouped queries",
        """
        k = MatMul(x, v)  l = MatMul(x, u)  t = Attention<q_num_heads = 4, kv_num_heads = 2>(h, k, l)""",
        [2],
        "tie h[2] ~ k[2]{0,0,0,0,2,2,..}; tie k[2] ~ k[2]{0,0,2,2}; tie l[2] ~ k[2]{0,0,2,2}; "
        "tie t[2] ~ k[2]{0,0,0,0,2,2,..}; size q_num_heads = 2 * |k[2]{0,2}|; "
        "size kv_num_heads = |k[2]{0,2}|",
        more="float[4,4] v, float[4,4] u",
        opset=23,
    ),
    tokens(
        "Attention of 4 axes",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, s)
        d = Transpose<perm = [0, 2, 1, 3]>(c)  o = Attention(b, d, d)  p = Transpose<perm = [0, 2, 1, 3]>(o)
        t = Reshape(p, r)""",
        [4],
        "tie b[1] ~ d[1]; tie o[1] ~ d[1]; tie d[1] ~ d[1]; mix b[3]: attention scales by its length; "
        "tie b[3] ~ d[3]; tie d[3] ~ o[3]",
        more="float[4,8] v, int64[4] s = {0, 0, 4, 2}, int64[3] r = {0, 0, 8}",
        opset=23,
    ),
    tokens(
        "Attention of two wide heads",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, s)
        d = Transpose<perm = [0, 2, 1, 3]>(c)  o = Attention(b, d, d)  p = Transpose<perm = [0, 2, 1, 3]>(o)
        t = Reshape(p, r)""",
        [2],
        "tie b[1] ~ d[1]; tie o[1] ~ d[1]; tie d[1] ~ d[1]; mix b[3]: attention scales by its length; "
        "tie b[3] ~ d[3]; tie d[3] ~ o[3]",
        seen=True,
        more="float[4,8] v, int64[4] s = {0, 0, 2, 4}, int64[3] r = {0, 0, 8}",
        opset=23,
    ),
    tokens(
        "Attention of a stated scale",
        """
        a = Reshape(h, s)  b = Transpose<perm = [0, 2, 1, 3]>(a)  k = MatMul(x, v)  c = Reshape(k, s)
        d = Transpose<perm = [0, 2, 1, 3]>(c)  o = Attention<scale = 0.5>(b, d, d)
        p = Transpose<perm = [0, 2, 1, 3]>(o)  t = Reshape(p, r)""",
        [4],
        "tie b[1] ~ d[1]; tie o[1] ~ d[1]; tie d[1] ~ d[1]; contract b[3] . d[3]; tie d[3] ~ o[3]",
        more="float[4,8] v, int64[4] s = {0, 0, 2, 4}, int64[3] r = {0, 0, 8}",
        opset=23,
    ),
    tokens(
        "Attention with a mask of scores",
        """
        k = MatMul(x, v)  t = Attention<q_num_heads = 4, kv_num_heads = 4>(h, k, k, m)""",
        [4],
        "tie h[2] ~ k[2]{0,0,2,2,4,4,..}; tie k[2] ~ k[2]{0,0,2,2,4,4,..}; "
        "tie k[2] ~ k[2]{0,0,2,2,4,4,..}; tie t[2] ~ k[2]{0,0,2,2,4,4,..}; "
        "size q_num_heads = |k[2]{0,2,4,6}|; size kv_num_heads = |k[2]{0,2,4,6}|; "
        "tie m[1] ~ k[2]{0,2,4,6}",
        more="float[4,8] v, float[1,4,5,5] m",
        opset=23,
    ),
    tokens(
        "RotaryEmbedding",
        """
        q = RotaryEmbedding<num_heads = 4>(h, e, f, i)  k = MatMul(x, v)
        t = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, k)""",
        [4],
        "tie h[2] ~ h[2]{0,0,2,2,4,4,..}; tie q[2] ~ h[2]{0,0,2,2,4,4,..}; size num_heads = |h[2]{0,2,4,6}|",
        more="float[4,8] v, float[9,1] e, float[9,1] f, int64[2,5] i = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4}",
        opset=23,
    ),
    tokens(
        "Attention of packed weights",
        "t = com.microsoft.Attention<num_heads = 4>(h, v, b)",
        [8, 4],
        "contract h[2] . v[0]; tie v[1]{0..11} ~ t[2]{0,0,0,3,3,3,..}; "
        "tie v[1]{12..23} ~ t[2]{0,0,0,3,3,3,..}; tie v[1]{24..35} ~ t[2]{0,0,0,3,3,3,..}; "
        "tie t[2] ~ t[2]{0,0,0,3,3,3,..}; tie b[0] ~ v[1]; size num_heads = |t[2]{0,3,6,9}|",
        c=12,
        more="float[8,36] v, float[36] b",
        domain=_MS,
    ),
    tokens(
        "MultiHeadAttention",
        """
        k = MatMul(x, v)  l = MatMul(x, u)  t = com.microsoft.MultiHeadAttention<num_heads = 4>(h, k, l)""",
        [4],
        "tie h[2] ~ t[2]{0,0,2,2,4,4,..}; tie k[2] ~ t[2]{0,0,2,2,4,4,..}; "
        "tie l[2] ~ t[2]{0,0,2,2,4,4,..}; tie t[2] ~ t[2]{0,0,2,2,4,4,..}; "
        "size num_heads = |t[2]{0,2,4,6}|",
        more="float[4,8] v, float[4,8] u",
        domain=_MS,
    ),
    tokens(
        "MultiHeadAttention with biases",
        """
        k = MatMul(x, v)  l = MatMul(x, u)
        t = com.microsoft.MultiHeadAttention<num_heads = 4>(h, k, l, b, , s)""",
        [4],
        "tie h[2] ~ t[2]{0,0,3,3,6,6,..}; tie k[2] ~ t[2]{0,0,3,3,6,6,..}; "
        "tie l[2] ~ t[2]{0,0,0,3,3,3,..}; tie t[2] ~ t[2]{0,0,0,3,3,3,..}; tie b[0]{0..7} ~ h[2]; "
        "tie b[0]{8..15} ~ k[2]; tie b[0]{16..27} ~ l[2]; tie s[1] ~ t[2]{0,3,6,9}; "
        "size num_heads = |t[2]{0,3,6,9}|",
        c=12,
        more="float[4,8] v, float[4,12] u, float[28] b, float[1,4,5,5] s",
        domain=_MS,
    ),
    tokens(
        "MultiHeadAttention with one bias of scores",
        """
        k = MatMul(x, v)  t = com.microsoft.MultiHeadAttention<num_heads = 4>(h, k, k, , , s)""",
        [4],
        "tie h[2] ~ t[2]{0,0,2,2,4,4,..}; tie k[2] ~ t[2]{0,0,2,2,4,4,..}; "
        "tie k[2] ~ t[2]{0,0,2,2,4,4,..}; tie t[2] ~ t[2]{0,0,2,2,4,4,..}; "
        "size num_heads = |t[2]{0,2,4,6}|",
        more="float[4,8] v, float[1,1,5,5] s",
        domain=_MS,
    ),
]

FUSED: list[Case] = [
    image("Gelu", "t = com.microsoft.Gelu(h)", [8], "tie h ~ t", domain=_MS),
    image("QuickGelu", "t = com.microsoft.QuickGelu(h)", [8], "tie h ~ t", domain=_MS),
    tokens(
        "BiasGelu",
        "t = com.microsoft.BiasGelu(h, b)",
        [8],
        "tie h ~ t; tie b[0] ~ t[2]",
        more="float[8] b",
        domain=_MS,
    ),
    tokens(
        "FastGelu",
        "t = com.microsoft.FastGelu(h, b)",
        [8],
        "tie h ~ t; tie b[0] ~ t[2]",
        more="float[8] b",
        domain=_MS,
    ),
    image(
        "FusedConv",
        """t = com.microsoft.FusedConv<activation = "Relu">(h, v, b)""",
        [8, 6],
        "tie h[0] ~ t[0]; tie v[0] ~ t[1]; tie b[0] ~ t[1]; contract h[1] . v[1]",
        c=6,
        more="float[6,8,1,1] v, float[6] b",
        domain=_MS,
    ),
    image(
        "FusedConv with a sum",
        """
        z = Conv(x, u)  t = com.microsoft.FusedConv<activation = "Relu">(h, v, b, z)""",
        [8, 6],
        "tie h[0] ~ t[0]; tie v[0] ~ t[1]; tie b[0] ~ t[1]; tie z ~ t; contract h[1] . v[1]",
        c=6,
        more="float[6,8,1,1] v, float[6,4,1,1] u, float[6] b",
        domain=_MS,
    ),
    tokens(
        "FusedMatMul",
        """
        k = MatMul(x, v)  e = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(h, k)  p = Softmax(e)
        t = MatMul(p, h)""",
        [8],
        "contract h[2] . k[2]; tie k[1] ~ e[2]; tie h[1] ~ e[1]; tie h[0] ~ e[0]; tie k[0] ~ e[0]",
        more="float[4,8] v",
        domain=_MS,
    ),
    tokens(
        "FusedMatMul with a weight",
        "t = com.microsoft.FusedMatMul<transB = 1>(h, v)",
        [8, 6],
        "contract h[2] . v[1]; tie v[0] ~ t[2]; tie h[1] ~ t[1]; tie h[0] ~ t[0]",
        c=6,
        more="float[6,8] v",
        domain=_MS,
    ),
    Case(
        "FusedGemm",
        """g (float[N,4] x) => (float[N,3] y) <float[4,8] w, float[8] b, float[3,8] v> {
        h = com.microsoft.FusedGemm<activation = "Relu">(x, w, b)  y = Gemm<transB = 1>(h, v) }""",
        [8],
        "contract x[1] . w[0]; tie x[0] ~ h[0]; tie w[1] ~ h[1]; tie b[0] ~ h[1]",
        domain=_MS,
    ),
    tokens(
        "SkipLayerNormalization",
        """
        k = MatMul(x, v)
        t = com.microsoft.SkipLayerNormalization(h, k, scale, b)""",
        [8],
        "tie h ~ t; tie k[2] ~ h[2]; tie k[1] ~ h[1]; tie k[0] ~ h[0]; tie scale[0] ~ h[2]; "
        "tie b[0] ~ h[2]; normalise h[2] + k[2]",
        more="float[4,8] v, float[8] scale, float[8] b",
        domain=_MS,
        seen=True,
    ),
    tokens(
        "SkipLayerNormalization with a bias, and the sum handed on",
        """
        k = MatMul(x, v)
        n, , , s = com.microsoft.SkipLayerNormalization(h, k, scale, b, c)  t = Add(n, s)""",
        [8],
        "tie h ~ n; tie h ~ s; tie k[2] ~ h[2]; tie k[1] ~ h[1]; tie k[0] ~ h[0]; tie scale[0] ~ h[2]; "
        "tie b[0] ~ h[2]; tie c[0] ~ h[2]; normalise h[2] + k[2] + c[0]",
        more="float[4,8] v, float[8] scale, float[8] b, float[8] c",
        domain=_MS,
    ),
    tokens(
        "SkipSimplifiedLayerNormalization",
        """
        k = MatMul(x, v)
        t = com.microsoft.SkipSimplifiedLayerNormalization(h, k, scale)""",
        [8],
        "tie h ~ t; tie k[2] ~ h[2]; tie k[1] ~ h[1]; tie k[0] ~ h[0]; tie scale[0] ~ h[2]; "
        "normalise h[2] + k[2]",
        more="float[4,8] v, float[8] scale",
        domain=_MS,
        seen=True,
    ),
]

CASES = ATTENTION + FUSED
