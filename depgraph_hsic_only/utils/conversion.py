"""Conversion of models: C2f to split form and back, to ONNX with the proof that the file does the same, and to int8."""

from depgraph_hsic_only.evaluation.int8 import quantize_onnx
from depgraph_hsic_only.evaluation.onnx import export_onnx
from depgraph_hsic_only.evaluation.parity import OnnxParity, verify_onnx
from depgraph_hsic_only.yolo.blocks.forms import SplitC2f
from depgraph_hsic_only.yolo.blocks.split import merge_blocks as merge_c2f
from depgraph_hsic_only.yolo.blocks.split import split_blocks as split_c2f

__all__ = ["OnnxParity", "SplitC2f", "export_onnx", "merge_c2f", "quantize_onnx", "split_c2f", "verify_onnx"]
