"""ONNX operators that are programs: a model file that has one does more than compute.

ONNX's own operators compute. Of the domains that onnxruntime has operators in, those that compute
are listed; a test walks its registry, so that an operator of a new version is in no list until a
person has judged it. Operators of other domains are run by nobody here: no library of operators is
loaded.
"""

from __future__ import annotations

import contextlib
from typing import Any

from onnxgraft.graph.operators import op_key

__all__ = ["COMPUTING", "PROGRAMS", "UNKNOWN", "reason_against"]

# By domain and type, and what each does.
PROGRAMS = {
    ("com.microsoft", "EPContext"): "holds or names an engine that was compiled, native code",
    ("com.microsoft", "Snpe"): "holds an engine that was compiled, native code",
    ("com.microsoft", "SpeculativePrefixCommit"): "writes at an address in memory that it is fed",
    ("com.microsoft", "PythonOp"): "runs Python code",
    ("com.microsoft", "PythonOpGrad"): "runs Python code",
    ("ai.onnx.contrib", "PyOp"): "runs Python code",
}
COMPUTING = {
    domain: frozenset(names.split())
    for domain, names in {
        "com.microsoft": """
            Attention AttnLSTM BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu
            BifurcationDetector BitmaskBiasDropout BitmaskDropout BranchwiseRMSNorm CDist
            CausalConvWithState ComplexMul ComplexMulConj ConvStateReplay
            ConvTransposeWithDynamicPads CropAndResize DecoderAttention
            DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeBFP
            DequantizeLinear DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul
            DynamicSparseAttention DynamicTimeWarping EmbedLayerNormalization EngramGate ExpandDims
            FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation GatedAdd GatedDeltaNet
            GatedDeltaNetStateReplay GatedRMSNorm GatedRelativePositionBias GatherBlockQuantized
            GatherND GatherPacked Gelu GemmFastGelu GemmFloat8 GemmaRotaryEmbedding GreedySearch
            GridSample GroupNorm GroupQueryAttention HyperConnectionLowRankMix
            HyperConnectionPostMix HyperConnectionPreMix Inverse Irfft IsAllFinite LinearAttention
            LinearAttentionGate LongformerAttention MRotaryEmbedding Mamba2Verify
            MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4
            MatMulInteger16 MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQLoRA
            MatMulNBitsQkv MatMulPacked MaxpoolWithMask MoE MoEGroupRouter MoEPacked MulInteger
            MultiHeadAttention MurmurHash3 NGramHashMapping NGramRepeatBlock NhwcConv NhwcFusedConv
            NhwcMaxPool PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer
            PackedSparseAttentionIndexerMerge Pad PagedAttention QAttention QEmbedLayerNormalization
            QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
            QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere
            QMoE QOrderedAttention QOrderedGelu QOrderedLayerNormalization
            QOrderedLongformerAttention QOrderedMatMul QuantizeBFP QuantizeLinear QuantizeWithOrder
            QuickGelu RMSNormRotary Range ReduceSumInteger RelativePositionBias RemovePadding
            RestorePadding Rfft RotaryEmbedding RouterGateUpProj SampleOp Sampling ScaledSiLU
            SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention
            SparseAttentionIndexer SparsePagedAttention SparseToDenseMatMul SwiGLU Tokenizer
            TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique VarlenCausalConvWithState
            VarlenNGramHashMapping WhisperBeamSearch WordConvEmbedding
        """,
        "com.microsoft.nchwc": """
            AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput
            Upsample
        """,
        "com.ms.internal.nhwc": """
            AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool
            GlobalLpPool GlobalMaxPool GridSample InstanceNormalization LRN LpPool MaxPool
            MaxUnpool QLinearAveragePool QLinearConv QLinearConvTranspose Resize SpaceToDepth
        """,
    }.items()
}
UNKNOWN = "is not known to do nothing but compute"


def reason_against(node: Any) -> str | None:
    """Return why a node may not run, such as ``runs Python code``."""
    key = domain, kind = op_key(node)
    if key in PROGRAMS:
        return PROGRAMS[key]
    known = domain not in COMPUTING or kind in COMPUTING[domain]
    return None if known or not _is_registered(domain, kind) else UNKNOWN


def _is_registered(domain: str, kind: str) -> bool:
    """Tell whether onnxruntime has an operator; what it does not have, it can't run."""
    with contextlib.suppress(ImportError):
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

        return any((s.domain, s.name) == (domain, kind) for s in get_all_operator_schema())
    return False
