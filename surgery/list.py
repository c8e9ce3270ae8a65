"""The passes, in order; the list is run until no pass changes anything more."""

from __future__ import annotations

from onnxgraft.stages.surgery.passes.clean import (
    freeze_training,
    keep_axes,
    merge_casts,
    merge_duplicates,
    merge_initializers,
    merge_reshapes,
    merge_slices,
    remove_branch,
    remove_identity,
    remove_noop,
    remove_select,
    remove_shape_chain,
)
from onnxgraft.stages.surgery.passes.fold import (
    fold_affine_backward,
    fold_batchnorm,
    fold_constants,
    fold_pad,
    fuse_gemm,
    merge_arithmetic,
)
from onnxgraft.stages.surgery.passes.layout import absorb_flatten, dense_to_conv, push_transposes
from onnxgraft.stages.surgery.passes.tensorrt import (
    lower_affine_grid,
    lower_col2im,
    lower_compress,
    lower_det,
    lower_dft,
    lower_integer,
    lower_integer_relu,
    lower_nms,
    lower_pool,
    lower_qlinear,
    lower_rows,
    lower_zero_points,
    name_plugins,
)
from onnxgraft.stages.surgery.running.rewrite import Pass

__all__ = ["PASSES"]

PASSES: tuple[Pass, ...] = (
    # First: what it makes constant decides selects and is folded.
    Pass("freeze_training", freeze_training.apply, changes_inputs=True),
    # Before everything that looks at neighbours.
    Pass("remove_identity", remove_identity.apply),
    # Before remove_select, which wants to see constant conditions.
    Pass("fold_constants", fold_constants.apply),
    Pass("remove_select", remove_select.apply),
    # After fold_constants, like remove_select.
    Pass("remove_branch", remove_branch.apply),
    # Before everything that asks for a single consumer: two copies have one each.
    Pass("merge_duplicates", merge_duplicates.apply),
    # Before merge_reshapes, which compares shapes that are then constants.
    Pass("remove_shape_chain", remove_shape_chain.apply),
    # Before merge_reshapes, which takes the Unsqueeze for one that stands alone.
    Pass("keep_axes", keep_axes.apply),
    Pass("merge_reshapes", merge_reshapes.apply),
    Pass("merge_casts", merge_casts.apply),
    # After merge_duplicates: what two equal Slices cut, one reader of each, is cut from one.
    Pass("merge_slices", merge_slices.apply),
    # After the merges, which leave Reshapes and Casts that change nothing.
    Pass("remove_noop", remove_noop.apply),
    # Before fold_batchnorm: a Transpose between a Conv and its batch norm hides them.
    Pass("push_transposes", push_transposes.apply),
    # After push_transposes, which brings the Transpose to the flatten.
    Pass("absorb_flatten", absorb_flatten.apply),
    # After absorb_flatten: the weights are in the order of the image's elements then.
    Pass("dense_to_conv", dense_to_conv.apply, optional=True),
    # Before fold_batchnorm, which can fold a shift into a Gemm but not into MatMul and Add.
    Pass("fuse_gemm", fuse_gemm.apply),
    # Before the folds: what is left of a chain of constants is one step.
    Pass("merge_arithmetic", merge_arithmetic.apply),
    Pass("fold_batchnorm", fold_batchnorm.apply),
    # After fold_batchnorm: into the layer before is always right where it can be done, into the
    # layer after only without padding.
    Pass("fold_affine_backward", fold_affine_backward.apply),
    # After fold_affine_backward, which a Conv that pads for itself would refuse.
    Pass("fold_pad", fold_pad.apply),
    # What TensorRT lacks, for that target only. After fold_pad, whose poolings are ONNX's own.
    Pass("lower_pool", lower_pool.apply),
    Pass("lower_integer_relu", lower_integer_relu.apply),
    Pass("lower_compress", lower_compress.apply),
    Pass("lower_qlinear", lower_qlinear.apply),
    Pass("lower_integer", lower_integer.apply),
    Pass("lower_affine_grid", lower_affine_grid.apply),
    Pass("lower_col2im", lower_col2im.apply),
    Pass("lower_det", lower_det.apply),
    Pass("lower_dft", lower_dft.apply),
    # Before lower_rows, which seals: onnxruntime verifies what this one does.
    Pass("lower_nms", lower_nms.apply),
    # When nothing else is left to do: nothing is folded into a constant that two layers share.
    Pass("merge_initializers", merge_initializers.apply, final=True),
    # Its steps are wider: what comes after could not be told from float noise.
    Pass("lower_zero_points", lower_zero_points.apply, seals=True, rounds=True),
    # It changes the number of rows, which no run of the graph before can verify.
    Pass("lower_rows", lower_rows.apply, seals=True),
    # Last of all: onnxruntime can't verify what comes after it.
    Pass("name_plugins", name_plugins.apply, seals=True),
)
