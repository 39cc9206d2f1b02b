"""Convolutions and products of matrices."""

from __future__ import annotations

from cases import Case

CASES: list[Case] = [
    Case(
        "Conv 1d",
        """g (float[N,4,9] x) => (float[N,3,9] y) <float[8,4,3] w1, float[8] b, float[3,8,1] w2> {
        h = Conv<pads = [1, 1]>(x, w1, b)  y = Conv(h, w2) }""",
        [8],
        "tie x[0] ~ h[0]; tie w1[0] ~ h[1]; tie b[0] ~ h[1]; contract x[1] . w1[1]",
    ),
    Case(
        "Conv 2d, opset 7",
        """g (float[N,4,6,6] x) => (float[N,3,6,6] y) <float[8,4,1,1] w1, float[3,8,1,1] w2> {
        h = Conv(x, w1)  y = Conv(h, w2) }""",
        [8],
        "tie x[0] ~ h[0]; tie w1[0] ~ h[1]; contract x[1] . w1[1]",
        opset=7,
    ),
    Case(
        "Conv 3d",
        """g (float[N,4,3,3,3] x) => (float[N,3,2,2,2] y) <float[8,4,2,2,2] w1, float[3,8,1,1,1] w2> {
        h = Conv(x, w1)  y = Conv(h, w2) }""",
        [8],
        "tie x[0] ~ h[0]; tie w1[0] ~ h[1]; contract x[1] . w1[1]",
    ),
    Case(
        "Conv in a chain of three",
        """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
        <float[8,4,1,1] w1, float[6,8,3,3] w2, float[3,6,1,1] w3> {
        h = Conv(x, w1)  k = Conv<pads = [1, 1, 1, 1]>(h, w2)  y = Conv(k, w3) }""",
        [8, 6],
        "tie x[0] ~ h[0]; tie w1[0] ~ h[1]; contract x[1] . w1[1]",
    ),
    Case(
        "Conv depthwise",
        """g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[8,4,1,1] v, float[8,1,3,3] w, float[8] b, float[3,8,1,1] u> {
        k = Conv(x, v)  h = Conv<group = 8>(k, w, b)  y = Conv(h, u) }""",
        [8],
        "tie k[0] ~ h[0]; tie w[0] ~ h[1]; tie b[0] ~ h[1]; tie k[1] ~ h[1]; tie h[1] ~ h[1]; "
        "size group = |h[1]|",
    ),
    Case(
        "Conv depthwise, two for each",
        """g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[8,4,1,1] v, float[16,1,3,3] w, float[16] b, float[3,16,1,1] u> {
        k = Conv(x, v)  h = Conv<group = 8>(k, w, b)  y = Conv(h, u) }""",
        [8],
        "tie k[0] ~ h[0]; tie w[0] ~ h[1]; tie b[0] ~ h[1]; tie k[1] ~ h[1]{0,2,4,6,8,10,..}; "
        "tie h[1] ~ h[1]{0,0,2,2,4,4,..}; size group = |h[1]{0,2,4,6,8,10,..}|",
    ),
    Case(
        "Conv of 4 groups",
        """g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[8,4,1,1] v, float[12,2,3,3] w, float[12] b, float[3,12,1,1] u> {
        k = Conv(x, v)  h = Conv<group = 4>(k, w, b)  y = Conv(h, u) }""",
        [4],
        "tie k[0] ~ h[0]; tie w[0] ~ h[1]; tie b[0] ~ h[1]; "
        "choose (h[1]: tie k[1] ~ h[1]{0,0,3,3,6,6,..}; tie h[1] ~ h[1]{0,0,0,3,3,3,..}; "
        "size group = |h[1]{0,3,6,9}|; "
        "freeze w[1]: another axis of the node carries the channels) | "
        "(w[1]: contract k[1] . w[1]{0,1,0,1,0,1,..}; "
        "tie k[1] ~ k[1]{0,1,0,1,0,1,..}; tie h[1] ~ h[1]{0,1,2,0,1,2,..})",
    ),
    Case(
        "Conv of 2 groups",
        """g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[12,4,1,1] v, float[8,6,3,3] w, float[8] b, float[3,8,1,1] u> {
        k = Conv(x, v)  h = Conv<group = 2>(k, w, b)  y = Conv(h, u) }""",
        [6, 4],
        "tie k[0] ~ h[0]; tie w[0] ~ h[1]; tie b[0] ~ h[1]; "
        "choose (h[1]: tie k[1] ~ h[1]{0,0,0,0,0,0,..}; tie h[1] ~ h[1]{0,0,0,0,4,4,..}; "
        "size group = |h[1]{0,4}|; "
        "freeze w[1]: another axis of the node carries the channels) | "
        "(w[1]: contract k[1] . w[1]{0,1,2,3,4,5,..}; "
        "tie k[1] ~ k[1]{0,1,2,3,4,5,..}; tie h[1] ~ h[1]{0,1,2,3,0,1,..})",
    ),
    Case(
        "Conv of 4 groups on the input",
        """g (float[N,4,6,6] x) => (float[N,3,4,4] y)
        <float[16,1,3,3] w, float[3,16,1,1] u> { h = Conv<group = 4>(x, w)  y = Conv(h, u) }""",
        [],
        "tie x[0] ~ h[0]; tie w[0] ~ h[1]; tie x[1] ~ h[1]{0,4,8,12}; tie h[1] ~ h[1]{0,0,0,0,4,4,..}; "
        "size group = |h[1]{0,4,8,12}|",
        seen=True,
    ),
    Case(
        "ConvTranspose",
        """g (float[N,4,6,6] x) => (float[N,3,P,Q] y)
        <float[8,4,1,1] v, float[8,6,2,2] w, float[6] b, float[3,6,1,1] u> {
        k = Conv(x, v)  h = ConvTranspose<strides = [2, 2]>(k, w, b)  y = Conv(h, u) }""",
        [8, 6],
        "tie k[0] ~ h[0]; tie b[0] ~ h[1]; contract k[1] . w[0]; tie w[1] ~ h[1]",
    ),
    Case(
        "ConvTranspose 1d",
        """g (float[N,4,6] x) => (float[N,3,P] y) <float[4,6,2] w, float[3,6,1] u> {
        h = ConvTranspose(x, w)  y = Conv(h, u) }""",
        [6],
        "tie x[0] ~ h[0]; contract x[1] . w[0]; tie w[1] ~ h[1]",
    ),
    Case(
        "ConvTranspose depthwise",
        """g (float[N,4,6,6] x) => (float[N,3,P,Q] y)
        <float[8,4,1,1] v, float[8,1,2,2] w, float[8] b, float[3,8,1,1] u> {
        k = Conv(x, v)  h = ConvTranspose<group = 8>(k, w, b)  y = Conv(h, u) }""",
        [8],
        "tie k[0] ~ h[0]; tie b[0] ~ h[1]; tie k[1] ~ h[1]; tie h[1] ~ h[1]; size group = |h[1]|; "
        "tie k[1] ~ w[0]",
    ),
    Case(
        "ConvTranspose of 4 groups",
        """g (float[N,4,6,6] x) => (float[N,3,P,Q] y)
        <float[8,4,1,1] v, float[8,3,2,2] w, float[12] b, float[3,12,1,1] u> {
        k = Conv(x, v)  h = ConvTranspose<group = 4>(k, w, b)  y = Conv(h, u) }""",
        [4],
        "tie k[0] ~ h[0]; tie b[0] ~ h[1]; choose (h[1]: tie k[1] ~ h[1]{0,0,3,3,6,6,..}; "
        "tie h[1] ~ h[1]{0,0,0,3,3,3,..}; size group = |h[1]{0,3,6,9}|; tie k[1] ~ w[0]; "
        "freeze w[1]: another axis of the node carries the channels) | (w[1]: contract k[1] . w[0]; "
        "tie k[1] ~ k[1]{0,1,0,1,0,1,..}; tie h[1] ~ w[1]{0,1,2,0,1,2,..})",
    ),
    Case(
        "ConvTranspose of 2 groups",
        """g (float[N,4,6,6] x) => (float[N,3,P,Q] y)
        <float[12,4,1,1] v, float[12,4,2,2] w, float[8] b, float[3,8,1,1] u> {
        k = Conv(x, v)  h = ConvTranspose<group = 2>(k, w, b)  y = Conv(h, u) }""",
        [6, 4],
        "tie k[0] ~ h[0]; tie b[0] ~ h[1]; choose (h[1]: tie k[1] ~ h[1]{0,0,0,0,0,0,..}; "
        "tie h[1] ~ h[1]{0,0,0,0,4,4,..}; size group = |h[1]{0,4}|; tie k[1] ~ w[0]; "
        "freeze w[1]: another axis of the node carries the channels) | (w[1]: contract k[1] . w[0]; "
        "tie k[1] ~ k[1]{0,1,2,3,4,5,..}; tie h[1] ~ w[1]{0,1,2,3,0,1,..})",
    ),
    Case(
        "Gemm",
        """g (float[N,4] x) => (float[N,3] y) <float[4,8] w, float[8] b, float[8,3] v, float[1,3] c> {
        h = Gemm(x, w, b)  k = Relu(h)  y = Gemm<alpha = 0.5, beta = 2.0>(k, v, c) }""",
        [8],
        "contract x[1] . w[0]; tie x[0] ~ h[0]; tie w[1] ~ h[1]; tie b[0] ~ h[1]",
    ),
    Case(
        "Gemm transB",
        """g (float[N,4] x) => (float[N,3] y) <float[8,4] w, float[8] b, float[3,8] v> {
        h = Gemm<transB = 1, alpha = 2.0, beta = 0.5>(x, w, b)  y = Gemm<transB = 1>(h, v) }""",
        [8],
        "contract x[1] . w[1]; tie x[0] ~ h[0]; tie w[0] ~ h[1]; tie b[0] ~ h[1]",
    ),
    Case(
        "Gemm transA",
        """g (float[4,N] x) => (float[N,3] y) <float[8,4] w, float[8,1] b, float[8,3] v> {
        h = Gemm(w, x, b)  y = Gemm<transA = 1>(h, v) }""",
        [8],
        "contract x[0] . w[1]; tie w[0] ~ h[0]; tie x[1] ~ h[1]; tie b[0] ~ h[0]",
    ),
    Case(
        "Gemm opset 7",
        """g (float[N,4] x) => (float[N,3] y) <float[4,8] w, float[1] b, float[8,3] v, float[3] c> {
        h = Gemm(x, w, b)  y = Gemm(h, v, c) }""",
        [8],
        "contract x[1] . w[0]; tie x[0] ~ h[0]; tie w[1] ~ h[1]",
        opset=7,
    ),
    Case(
        "MatMul constant right",
        """g (float[N,5,4] x) => (float[N,5,3] y) <float[4,8] w, float[8,3] v> {
        h = MatMul(x, w)  y = MatMul(h, v) }""",
        [8],
        "contract x[2] . w[0]; tie w[1] ~ h[2]; tie x[1] ~ h[1]; tie x[0] ~ h[0]",
    ),
    Case(
        "MatMul constant left",
        """g (float[N,4,5] x) => (float[N,3,5] y) <float[8,4] w, float[3,8] v> {
        h = MatMul(w, x)  y = MatMul(v, h) }""",
        [8],
        "contract x[1] . w[1]; tie x[2] ~ h[2]; tie w[0] ~ h[1]; tie x[0] ~ h[0]",
    ),
    Case(
        "MatMul of a batch of weights",
        """g (float[N,2,5,4] x) => (float[N,2,5,3] y)
        <float[2,4,8] w, float[2,8,3] v> { h = MatMul(x, w)  y = MatMul(h, v) }""",
        [8],
        "contract x[3] . w[1]; tie w[2] ~ h[3]; tie x[2] ~ h[2]; tie x[1] ~ h[1]; tie x[0] ~ h[0]; "
        "tie w[0] ~ h[1]",
    ),
    Case(
        "MatMul with a vector",
        """g (float[N,4] x) => (float[N] y) <float[4,8] w, float[8] v> {
        h = MatMul(x, w)  y = MatMul(h, v) }""",
        [8],
        "contract x[1] . w[0]; tie w[1] ~ h[1]; tie x[0] ~ h[0]",
    ),
    Case(
        "MatMul of two variables",
        """g (float[N,5,4] x) => (float[N,5,5] y) <float[4,8] w, float[4,8] v> {
        h = MatMul(x, w)  k = MatMul(x, v)  kt = Transpose<perm = [0, 2, 1]>(k)  y = MatMul(h, kt) }""",
        [8],
        "contract x[2] . w[0]; tie w[1] ~ h[2]; tie x[1] ~ h[1]; tie x[0] ~ h[0]",
    ),
    Case(
        "Einsum",
        """g (float[N,5,4] x) => (float[N,5,3] y) <float[4,8] w, float[8,3] v> {
        h = Einsum<equation = "nti,io->nto">(x, w)  y = Einsum<equation = "nto,op->ntp">(h, v) }""",
        [8],
        "tie x[0] ~ h[0]; tie x[1] ~ h[1]; tie w[1] ~ h[2]; contract x[2] . w[0]",
    ),
    Case(
        "Einsum of heads",
        """g (float[N,5,4] x) => (float[N,4,5,5] y) <float[4,4,6] w, float[4,4,6] v> {
        h = Einsum<equation = "nti,ihd->nthd">(x, w)  k = Einsum<equation = "nti,ihd->nthd">(x, v)
        y = Einsum<equation = "nthd,nshd->nhts">(h, k) }""",
        [6],
        "tie x[0] ~ h[0]; tie x[1] ~ h[1]; tie w[1] ~ h[2]; tie w[2] ~ h[3]; contract x[2] . w[0]",
    ),
    Case(
        "Einsum of one operand",
        """g (float[N,5,4] x) => (float[N,5] y) <float[4,8] w> {
        h = MatMul(x, w)  y = Einsum<equation = "nto->nt">(h) }""",
        [8],
        "tie h[0] ~ y[0]; tie h[1] ~ y[1]; contract h[2] . 1",
    ),
    Case(
        "Einsum with an ellipsis",
        """g (float[N,5,4] x) => (float[N,5,3] y) <float[4,8] w, float[8,3] v> {
        h = MatMul(x, w)  y = Einsum<equation = "...o,op->...p">(h, v) }""",
        [],
        "freeze h[0]: Einsum '...o,op->...p' is not analysed; "
        "freeze h[1]: Einsum '...o,op->...p' is not analysed; "
        "freeze h[2]: Einsum '...o,op->...p' is not analysed; "
        "freeze v[0]: Einsum '...o,op->...p' is not analysed; "
        "freeze v[1]: Einsum '...o,op->...p' is not analysed; "
        "freeze y[0]: Einsum '...o,op->...p' is not analysed; "
        "freeze y[1]: Einsum '...o,op->...p' is not analysed; "
        "freeze y[2]: Einsum '...o,op->...p' is not analysed",
        seen=True,
    ),
    Case(
        "Einsum of a diagonal",
        """g (float[N,4] x) => (float[N] y) <float[4,8] w, float[8,1] r, int64[1] a = {1}> {
        h = MatMul(x, w)  k = Unsqueeze(h, a)  o = MatMul(r, k)  y = Einsum<equation = "nii->n">(o) }""",
        [],
        "freeze o[0]: Einsum 'nii->n' is not analysed; freeze o[1]: Einsum 'nii->n' is not analysed; "
        "freeze o[2]: Einsum 'nii->n' is not analysed; freeze y[0]: Einsum 'nii->n' is not analysed",
        seen=True,
    ),
]
