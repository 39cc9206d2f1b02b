"""Models that would take the whole process down are refused before anything runs them."""

from __future__ import annotations

import pytest
import support

from onnxmerge.errors import ModelError
from onnxmerge.validation import check_model


@pytest.mark.parametrize("group", [0, -1])
def test_a_transposed_convolution_of_no_groups_is_refused(group: int):
    proto = support.model(f"""g (float[N,4,5,5] x) => (float[N,P,Q,R] y) <float[4,3,2,2] w> {{
        y = ConvTranspose<group = {group}>(x, w) }}""")
    with pytest.raises(ModelError, match=f"group of ConvTranspose 'y' is {group}, it is at least 1"):
        check_model(proto)


def test_attention_with_heads_for_the_queries_alone_is_refused():
    text = """g (float[N,5,8] x) => (float[N,5,8] y) {
        y = Attention<q_num_heads = 4, kv_num_heads = KEYS>(x, x, x) }"""
    with pytest.raises(ModelError, match="kv_num_heads of Attention 'y' is 0"):
        check_model(support.model(text.replace("KEYS", "0"), opset=23))
    assert check_model(support.model(text.replace("KEYS", "4"), opset=23)) == []
