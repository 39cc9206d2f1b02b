"""What onnxruntime's messages mean, in one sentence each. Does not import onnxruntime."""

from __future__ import annotations

import re

_REASONS = (
    # Pattern in onnxruntime's message, sentence for the user.
    (
        r"(?:Fatal error: )?(?P<domain>[\w.]*):(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        "it has no operator {op} of domain {domain!r}; export the model without custom operators",
    ),
    (
        r'In Node, \("(?P<node>[^"]*)", (?P<op>\w+), .*No opset import for domain.?\s*\'?(?P<domain>[\w.]+)',
        "node {node!r} ({op}) is of domain {domain!r}, which the model does not import; "
        "export the model without custom operators",
    ),
    (
        r"Could not find an implementation for (?P<op>\w+)\((?P<since>\d+)\) node with name '(?P<node>.*?)'",
        "it has no implementation of {op} version {since} (node {node!r}) for these types; "
        "convert the model to a newer opset or to float32",
    ),
)


def sentence(failure: BaseException) -> str:
    """What an exception of onnxruntime says, without error codes, source paths and repetitions."""
    text = str(failure)
    for pattern, sentence in _REASONS:
        if match := re.search(pattern, text, re.DOTALL):
            return sentence.format(**match.groupdict())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"(Exception during initialization: |Error: )?\S*\w\.(cc|h|cu|hpp):\d+( \w+ )?", "", text)
    running = r"Non-zero status code returned while running (\w+) node. Name:'(.*?)' Status Message: "
    text = re.sub(running, r"node '\2' (\1): ", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = text.replace(" Please fix either the inputs/outputs or the model.", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[:2])[:400].rstrip(". ") if lines else type(failure).__name__
