"""The passes, in order; the list is run until no pass changes anything more."""

from __future__ import annotations

from onnxgraft.surgery import (
    absorb_flatten,
    fold_batchnorm,
    fold_constants,
    freeze_training,
    fuse_gemm,
    merge_reshapes,
    push_transposes,
    remove_identity,
    remove_noop,
    remove_select,
    remove_shape_chain,
)
from onnxgraft.surgery._rewrite import Pass

__all__ = ["PASSES"]

PASSES: tuple[Pass, ...] = (
    # First: what it makes constant decides selects and is folded.
    Pass("freeze_training", freeze_training.apply, changes_inputs=True),
    # Before everything that looks at neighbours.
    Pass("remove_identity", remove_identity.apply),
    # Before remove_select, which wants to see constant conditions.
    Pass("fold_constants", fold_constants.apply),
    Pass("remove_select", remove_select.apply),
    # Before merge_reshapes, which compares shapes that are then constants.
    Pass("remove_shape_chain", remove_shape_chain.apply),
    Pass("merge_reshapes", merge_reshapes.apply),
    Pass("remove_noop", remove_noop.apply),
    # Before fold_batchnorm: a Transpose between a Conv and its batch norm hides them.
    Pass("push_transposes", push_transposes.apply),
    # After push_transposes, which brings the Transpose to the flatten.
    Pass("absorb_flatten", absorb_flatten.apply),
    # Before fold_batchnorm, which can fold into a Gemm but not into MatMul and Add.
    Pass("fuse_gemm", fuse_gemm.apply),
    Pass("fold_batchnorm", fold_batchnorm.apply),
)
