"""The networks of ``tools/architectures.py``: by name, with random weights, small, and how each is exported.

    python tools/zoo.py                    every entry as a line of JSON
    python tools/zoo.py NAME FILE INPUTS   write the model and an .npz of inputs for it

The structure is that of the published network, of its smallest variant; depth and input size are reduced
where that keeps every kind of layer. timm, transformers and torchvision are imported where they are needed.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import zoo_nets
from torch import nn

Inputs = tuple[torch.Tensor, ...]
# Random inputs that are written for each network.
SAMPLES = 16


@dataclass(frozen=True)
class Entry:
    """A network and the way to its file.

    Attributes:
        kind: ``cnn``, ``transformer``, ``other``.
        make: the network in evaluation mode, and inputs that it takes.
        dynamo: whether torch's newer exporter writes it.
        then: what is done to the file afterwards, a key of ``_TURNED``; empty: nothing.
    """

    name: str
    kind: str
    make: Callable[[], tuple[nn.Module, Inputs]]
    dynamo: bool = False
    opset: int = 17
    then: str = ""

    @property
    def exporter(self) -> str:
        """In words, for the table."""
        made = f"{'dynamo' if self.dynamo else 'legacy'} {self.opset}"
        return f"{made}, {self.then}" if self.then else made


def export(entry: Entry, path: Path) -> None:
    """Write the model file of an entry."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, inputs = entry.make()
    net = net.eval()
    with torch.no_grad():
        _enliven(net)
    names = [f"input{i}" for i in range(len(inputs))]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The fused kernels of torch's own attention are not for the exporters.
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if entry.dynamo:
            shapes: Any = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
            if isinstance(net, _Tensors):
                shapes = (shapes,)  # of its one starred argument
            program = torch.onnx.export(
                net, inputs, dynamo=True, verbose=False, opset_version=entry.opset, input_names=names,
                dynamic_shapes=shapes,
            )  # fmt: skip
            onnx.save(program.model_proto, path)
        else:
            torch.onnx.export(
                net, inputs, str(path), dynamo=False, opset_version=entry.opset, input_names=names,
                dynamic_axes={name: {0: "n"} for name in names},
            )  # fmt: skip
    if entry.then:
        _TURNED[entry.then](path, inputs)


def samples(entry: Entry, count: int) -> dict[str, np.ndarray]:
    """Random inputs by name: like those that exported the network, but ``count`` of them."""
    _, inputs = entry.make()
    rng = np.random.default_rng(1)
    found = {}
    for i, value in enumerate(inputs):
        shape = (count, *value.shape[1:])
        if value.dtype.is_floating_point:
            found[f"input{i}"] = rng.standard_normal(shape).astype(np.float32)
        elif bool((value == 1).all()):  # an attention mask
            found[f"input{i}"] = np.ones(shape, dtype=np.int64)
        else:
            found[f"input{i}"] = rng.integers(0, int(value.max()) + 1, shape)
    return found


def _enliven(net: nn.Module) -> None:
    """Random numbers where a new network has constants: scales, shifts, running statistics."""
    for module in net.modules():
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, torch.Tensor):
            mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in net.parameters():
        if parameter.dim() and parameter.numel() > 1 and parameter.is_floating_point():
            first = parameter.flatten()[0]
            if bool((parameter == first).all()):
                parameter.uniform_(*((0.5, 1.5) if float(first) == 1 else (-0.2, 0.2)))


def _quantised(path: Path, inputs: Inputs) -> None:
    """Static quantisation by onnxruntime, as QDQ."""
    from onnxruntime import quantization

    names = [value.name for value in onnx.load(path, load_external_data=False).graph.input]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{name: v.numpy() for name, v in zip(names, inputs, strict=True)}] * 2)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        quantization.quant_pre_process(str(path), str(source), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(source), str(path), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
        )


def _optimised(level: str, path: Path, inputs: Inputs) -> None:
    """What onnxruntime makes of it at a level of its graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    content = path.read_bytes()
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _fused(kind: str, path: Path, inputs: Inputs) -> None:
    """The fusions of onnxruntime.transformers."""
    from onnxruntime.transformers import optimizer

    heads = {"bert": (4, 128), "vit": (3, 192)}[kind]
    optimizer.optimize_model(
        str(path), model_type=kind, num_heads=heads[0], hidden_size=heads[1], opt_level=0
    ).save_model_to_file(str(path))


_TURNED: dict[str, Callable[[Path, Inputs], None]] = {
    "QDQ": _quantised,
    "onnxruntime basic": partial(_optimised, "BASIC"),
    "onnxruntime extended": partial(_optimised, "EXTENDED"),
    "fused as bert": partial(_fused, "bert"),
    "fused as vit": partial(_fused, "vit"),
}


def _image(size: int) -> Inputs:
    return (torch.randn(1, 3, size, size),)


def _tokens(length: int, words: int = 1000) -> torch.Tensor:
    tokens = torch.randint(0, words, (1, length))
    tokens[0, 0] = words - 1
    return tokens


def _timm(name: str, kind: str, size: int = 224, dynamo: bool = False, **options: Any) -> Entry:
    def make() -> tuple[nn.Module, Inputs]:
        return importlib.import_module("timm").create_model(name, pretrained=False, **options), _image(size)

    return Entry(f"timm {name}", kind, make, dynamo, 20 if dynamo else 17)


def _torchvision(name: str, size: int, dynamo: bool = False) -> Entry:
    def make() -> tuple[nn.Module, Inputs]:
        return getattr(importlib.import_module("torchvision.models"), name)(weights=None), _image(size)

    return Entry(f"torchvision {name}", "cnn", make, dynamo, 18 if dynamo else 13)


class _Tensors(nn.Module):
    """A network of transformers with tensors in and one tensor out."""

    def __init__(self, net: nn.Module, names: Sequence[str], fixed: dict[str, Any]):
        super().__init__()
        self.net, self.names, self.fixed = net, names, fixed

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        found = self.net(**dict(zip(self.names, inputs, strict=True)), **self.fixed, return_dict=True)
        for name in ("logits", "last_hidden_state", "image_embeds", "pooler_output"):
            if getattr(found, name, None) is not None:
                return getattr(found, name)
        return found[0]


def _hugging(
    title: str,
    config: str,
    model: str,
    options: dict[str, Any],
    inputs: Callable[[], dict[str, torch.Tensor]],
    *,
    dynamo: bool = False,
    fixed: dict[str, Any] | None = None,
) -> Entry:
    def make() -> tuple[nn.Module, Inputs]:
        library = importlib.import_module("transformers")
        settings = getattr(library, config)(**options, attn_implementation="eager")
        net = getattr(library, model)(settings)
        given = inputs()
        return _Tensors(net, list(given), fixed or {}), tuple(given.values())

    return Entry(f"transformers {title}", "transformer", make, dynamo, 18 if dynamo else 17)


def _own(title: str, kind: str, build: Callable[[], nn.Module], inputs: Callable[[], Inputs]) -> Entry:
    return Entry(title, kind, lambda: (build(), inputs()))


_SMALL = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
          "intermediate_size": 512, "max_position_embeddings": 128}  # fmt: skip


def _text() -> dict[str, torch.Tensor]:
    return {"input_ids": _tokens(32), "attention_mask": torch.ones(1, 32, dtype=torch.int64)}


def _ids() -> dict[str, torch.Tensor]:
    return {"input_ids": _tokens(32)}


def _entries() -> list[Entry]:
    cnn, attention, other = "cnn", "transformer", "other"
    llama = _SMALL | {"num_key_value_heads": 2}
    gpt2 = {"vocab_size": 1000, "n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 128}
    fixed = {"use_cache": False}
    bert = _hugging("bert", "BertConfig", "BertModel", _SMALL, _text)
    vit = _timm("vit_tiny_patch16_224", attention, depth=4)
    resnet = _timm("resnet18", cnn)
    mobilenet = _timm("mobilenetv2_100", cnn)
    return [
        resnet,
        _timm("resnet50", cnn, 160, dynamo=True),
        mobilenet,
        vit,
        bert,
        _timm("efficientnet_b0", cnn),
        _timm("convnext_atto", cnn, dynamo=True),
        _timm("mobilenetv3_small_100", cnn, dynamo=True),
        _hugging("distilbert", "DistilBertConfig", "DistilBertForSequenceClassification",
                 {"vocab_size": 1000, "dim": 128, "n_layers": 3, "n_heads": 4, "hidden_dim": 512,
                  "max_position_embeddings": 128}, _text),
        _hugging("gpt2", "GPT2Config", "GPT2LMHeadModel", gpt2, _ids, fixed=fixed, dynamo=True),
        _timm("swin_tiny_patch4_window7_224", attention, depths=(2, 2, 2, 2)),
        _timm("deit_tiny_distilled_patch16_224", attention, depth=4, dynamo=True),
        replace(resnet, then="QDQ", name="timm resnet18, quantised"),
        replace(mobilenet, then="QDQ", name="timm mobilenetv2_100, quantised"),
        replace(bert, then="fused as bert", name="transformers bert, fused"),
        replace(vit, then="fused as vit", name="timm vit_tiny, fused"),
        _timm("csatv2", cnn, 256, dynamo=True),
        _timm("mobilenetv1_100", cnn),
        _timm("mobilenetv4_conv_small", cnn, dynamo=True),
        _timm("mobilenetv4_hybrid_medium", cnn, 192),
        _timm("efficientnetv2_rw_t", cnn, 160),
        _timm("densenet121", cnn, 160, dynamo=True),
        _timm("inception_v3", cnn, 160),
        _timm("regnetx_004", cnn),
        _timm("regnety_004", cnn, dynamo=True),
        _timm("resnext50_32x4d", cnn, 128),
        _timm("resnest14d", cnn, 160),
        _timm("ghostnet_100", cnn),
        _timm("dla34", cnn, 160),
        _timm("hrnet_w18_small", cnn, 160),
        _timm("cspdarknet53", cnn, 128),
        _timm("ese_vovnet19b_slim", cnn, 160),
        _timm("nfnet_l0", cnn, 160),
        _timm("davit_tiny", attention, depths=(1, 1, 2, 1)),
        _timm("twins_svt_small", attention, depths=(1, 1, 2, 1)),
        _timm("twins_pcpvt_small", attention, depths=(1, 1, 2, 1), dynamo=True),
        _timm("eva02_tiny_patch14_224", attention, depth=4, dynamo=True),
        _timm("beit_base_patch16_224", attention, depth=3, embed_dim=192, num_heads=3),
        _timm("xcit_nano_12_p16_224", attention, depth=4),
        _timm("coat_lite_tiny", attention),
        _timm("poolformer_s12", cnn),
        _timm("maxvit_rmlp_pico_rw_256", attention, 256),
        _timm("mobilevit_xxs", attention, 256),
        _timm("mobilevitv2_050", attention, 256, dynamo=True),
        _timm("levit_128s", attention),
        _timm("efficientformer_l1", attention, dynamo=True),
        _timm("convnextv2_atto", cnn),
        _timm("pvt_v2_b0", attention),
        _timm("mixer_s32_224", attention),
        _timm("gmlp_ti16_224", attention),
        _timm("cait_xxs24_224", attention, depth=3),
        _timm("crossvit_9_240", attention, 240),
        _timm("edgenext_xx_small", attention, 256),
        _timm("fastvit_t8", attention, 256),
        _timm("repvgg_a0", cnn, 160),
        _timm("hgnetv2_b0", cnn, 160),
        _timm("focalnet_tiny_srf", attention, 112),
        _timm("gcvit_xxtiny", attention),
        _timm("volo_d1_224", attention, dynamo=True),
        _timm("dpn68", cnn, 128),
        _timm("skresnet18", cnn, 160),
        _timm("res2net50_26w_4s", cnn, 128),
        _timm("xception41", cnn, 128),
        _timm("rexnet_100", cnn, 160),
        _timm("mambaout_femto", cnn, 160),
        _timm("starnet_s1", cnn, 160),
        _timm("hiera_tiny_224", attention, stages=(1, 1, 2, 1)),
        _torchvision("shufflenet_v2_x0_5", 160),
        _torchvision("squeezenet1_1", 160, dynamo=True),
        _torchvision("googlenet", 160),
        _torchvision("mnasnet0_5", 160),
        replace(bert, dynamo=True, opset=23, name="transformers bert, opset 23"),
        replace(bert, then="QDQ", name="transformers bert, quantised"),
        replace(resnet, then="onnxruntime basic", name="timm resnet18, basic"),
        replace(bert, then="onnxruntime extended", name="transformers bert, extended"),
        _hugging("albert", "AlbertConfig", "AlbertModel", _SMALL | {"embedding_size": 64}, _text),
        _hugging("electra", "ElectraConfig", "ElectraForSequenceClassification",
                 _SMALL | {"embedding_size": 64}, _text, dynamo=True),
        _hugging("roberta", "RobertaConfig", "RobertaModel",
                 _SMALL | {"max_position_embeddings": 130}, _text),
        _hugging("mobilebert", "MobileBertConfig", "MobileBertModel",
                 _SMALL | {"embedding_size": 128, "intra_bottleneck_size": 128}, _text),
        _hugging("deberta v2", "DebertaV2Config", "DebertaV2Model",
                 _SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, _text),
        _hugging("llama", "LlamaConfig", "LlamaForCausalLM", llama, _ids, fixed=fixed, dynamo=True),
        _hugging("qwen2", "Qwen2Config", "Qwen2ForCausalLM", llama, _ids, fixed=fixed, dynamo=True),
        _hugging("t5 encoder", "T5Config", "T5EncoderModel",
                 {"vocab_size": 1000, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 3,
                  "num_heads": 4}, _text),
        _hugging("whisper encoder", "WhisperConfig", "WhisperForAudioClassification",
                 {"d_model": 128, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 512,
                  "num_mel_bins": 80, "max_source_positions": 100, "num_labels": 10},
                 lambda: {"input_features": torch.randn(1, 80, 200)}),
        _hugging("wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForCTC",
                 _SMALL | {"vocab_size": 32, "conv_dim": [64] * 7, "num_conv_pos_embeddings": 16,
                           "num_conv_pos_embedding_groups": 4},
                 lambda: {"input_values": torch.randn(1, 8000)}),
        _hugging("clip vision", "CLIPVisionConfig", "CLIPVisionModelWithProjection",
                 {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
                  "num_attention_heads": 4, "image_size": 96, "patch_size": 16},
                 lambda: {"pixel_values": _image(96)[0]}),
        _hugging("clip text", "CLIPTextConfig", "CLIPTextModelWithProjection",
                 _SMALL | {"eos_token_id": 999, "bos_token_id": 0, "pad_token_id": 1}, _ids),
        _hugging("segformer", "SegformerConfig", "SegformerForSemanticSegmentation", {"depths": [1, 1, 1, 1]},
                 lambda: {"pixel_values": _image(128)[0]}),
        _hugging("dinov2", "Dinov2Config", "Dinov2Model",
                 {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 98},
                 lambda: {"pixel_values": _image(98)[0]}),
        _hugging("detr", "DetrConfig", "DetrForObjectDetection",
                 {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
                  "backbone_config": {"model_type": "resnet", "out_features": ["stage4"],
                                      "layer_type": "basic", "depths": [1, 1, 1, 1],
                                      "hidden_sizes": [32, 64, 128, 128]},
                  "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                  "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256},
                 lambda: {"pixel_values": _image(128)[0]}),
        _own("torch TransformerEncoder", attention, zoo_nets.encoder, lambda: (torch.randn(1, 24, 128),)),
        _own("conformer", attention, zoo_nets.Conformer, lambda: (torch.randn(1, 48, 80),)),
        _own("LSTM tagger", other, zoo_nets.lstm, lambda: (torch.randn(1, 32, 40),)),
        _own("GRU, CNN and CTC", other, zoo_nets.Columns, lambda: (torch.randn(1, 1, 32, 96),)),
        _own("DDPM UNet", cnn, zoo_nets.Diffusion, lambda: (torch.randn(1, 3, 32, 32), _tokens(1)[0])),
    ]  # fmt: skip


ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _entries()}


def main() -> None:
    if len(sys.argv) == 1:
        for entry in ENTRIES.values():
            print(json.dumps({"name": entry.name, "kind": entry.kind, "exporter": entry.exporter}))
        return
    name, path, inputs = sys.argv[1:]
    export(ENTRIES[name], Path(path))
    np.savez(inputs, **samples(ENTRIES[name], SAMPLES))


if __name__ == "__main__":
    main()
