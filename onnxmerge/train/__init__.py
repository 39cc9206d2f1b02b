"""Learned masks (extra ``train``): train a torch module, or an ONNX file, until it is smaller.

Weights and gates are learned together (Xiao et al. 2019, AutoPrune), one gate per channel as the
core's channel analysis finds it, so that what is learned can be cut out of the ONNX file exactly.
"""

from onnxmerge.train.batches import Batches, shift_and_flip
from onnxmerge.train.channel_masks import ChannelMasks, wrap
from onnxmerge.train.checkpoint import load_checkpoint, save_checkpoint
from onnxmerge.train.estimators import LeakyRelu, Linear, Softplus
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.exporting import to_onnx
from onnxmerge.train.logs import Log
from onnxmerge.train.loop import accuracy, fit
from onnxmerge.train.methods import HardConcrete, HardStep
from onnxmerge.train.no_masks import NoMasks
from onnxmerge.train.processes import Processes
from onnxmerge.train.recovery import Recovered, recover
from onnxmerge.train.shrink import Shrunk, shrink
from onnxmerge.train.trainer import Learning, Trainer
from onnxmerge.train.weight_masks import WeightMasks, wrap_weights

__all__ = [
    "Batches",
    "ChannelMasks",
    "HardConcrete",
    "HardStep",
    "LeakyRelu",
    "Learning",
    "Linear",
    "Log",
    "NoMasks",
    "OnnxModule",
    "Processes",
    "Recovered",
    "Shrunk",
    "Softplus",
    "Trainer",
    "WeightMasks",
    "accuracy",
    "fit",
    "load_checkpoint",
    "recover",
    "save_checkpoint",
    "shift_and_flip",
    "shrink",
    "to_onnx",
    "wrap",
    "wrap_weights",
]
