"""What is known of the operations in a graph: which may, as the data decide, move values from one sample to another.

Of an operation that is not known it is assumed that it may. What is chosen by a mask (``where``), by a maximum, or by a
matrix that is multiplied with (a permutation) counts as a gate that may open later: the passes that are compared with
autograd anyway show it.
"""

import math
import re
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

KEEPING = frozenset(
    # What maps each element, or two tensors element by element ...
    """
    Abs Acos Acosh Add Addcdiv Addcmul Angle Asin Asinh Atan Atan2 Atanh BinaryCrossEntropy
    BinaryCrossEntropyWithLogits Ceil Celu Clamp ClampMax ClampMin Clone CopyBackwards Copysign Cos Cosh Deg2Rad
    Digamma Div Elu Erf Erfc Erfinv Exp Exp2 Expm1 Floor Fmod Frac Gelu Hardshrink Hardsigmoid Hardswish Hardtanh
    HuberLoss Hypot Lerp Lgamma LeakyRelu Log Log10 Log1P Log2 LogSigmoid Logaddexp Logaddexp2 Logit MaskedFill
    Maximum Minimum Mish MseLoss Mul Mvlgamma NanToNum Neg Polygamma Pow PreluKernel Rad2Deg Reciprocal Relu
    Remainder Round Rsqrt Rsub Sgn Sigmoid Sign Silu Sin Sinc Sinh SmoothL1Loss Softplus Softshrink SpecialEntr
    SpecialErfcx SpecialLogNdtr Sqrt Sub Tan Tanh Threshold ToCopy Trunc Where Xlogy Zero
    """
    # ... reduces, or normalises ...
    """
    Amax Amin Cumprod Cumsum Glu LinalgVectorNorm LogSoftmax Logcumsumexp Logsumexp Max Mean Min Nansum Norm Prod
    SafeSoftmax Softmax Std StdMean Sum Var VarMean CudnnBatchNorm FusedRmsNorm MiopenBatchNorm NativeBatchNorm
    NativeGroupNorm NativeLayerNorm
    """
    # ... multiplies matrices, or solves with them ...
    """
    Addbmm Addmm Addmv Addr Baddbmm Bmm Dot LinalgCholeskyEx LinalgHouseholderProduct LinalgInvEx LinalgMatrixExp
    LinalgQr LinalgSolveEx LinalgSolveTriangular Linear MkldnnLinear Mm Mv Trace Trilinear Vdot WeightNormInterface
    _AffineBackward
    """
    # ... slides over pixels, or goes through sequences ...
    """
    AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D Convolution
    ConvolutionOverrideable CudnnConvolution MaxPool2DWithIndices MaxPool3DWithIndices MkldnnConvolution
    PixelShuffle PixelUnshuffle UpsampleBicubic2D UpsampleBilinear2D UpsampleLinear1D UpsampleNearest1D
    UpsampleNearest2D UpsampleNearest3D CudnnRnn MiopenRnn MkldnnRnnLayer ScaledDotProductCudnnAttention
    ScaledDotProductEfficientAttention ScaledDotProductFlashAttention ScaledDotProductFlashAttentionForCpu
    ThnnFusedGruCell ThnnFusedLstmCell
    """
    # ... or lays out anew, by numbers that are part of a structure.
    """
    Alias AsStrided Cat ConstantPadNd DiagEmbed Diagonal Expand Flip Permute ReflectionPad1D ReflectionPad2D
    ReflectionPad3D Repeat ReplicationPad1D ReplicationPad2D ReplicationPad3D ReshapeAlias Roll Select Slice Split
    SplitWithSizes Squeeze Stack T Transpose Tril Triu Unbind Unfold UnsafeSplit UnsafeSplitWithSizes UnsafeView
    Unsqueeze View
    """.split()
)
"""Names of operations after which a value is where the code says, whatever the data are."""
PARTS = {
    "AsStrided": ("_saved_storage_offset", "_saved_stride"),
    "ConstantPadNd": ("_saved_pad",),
    "Diagonal": ("_saved_offset", "_saved_dim1", "_saved_dim2"),
    "Roll": ("_saved_shifts",),
    "Select": ("_saved_index",),
    "Slice": ("_saved_start", "_saved_step"),
    "Split": ("_saved_split_size",),
    "SplitWithSizes": ("_saved_split_sizes",),
    "Transpose": ("_saved_dim0", "_saved_dim1"),
    "Unfold": ("_saved_dimension", "_saved_step"),
    "UnsafeSplit": ("_saved_split_size",),
    "UnsafeSplitWithSizes": ("_saved_split_sizes",),
} | {f"{kind}Pad{axes}D": ("_saved_padding",) for kind in ("Reflection", "Replication") for axes in (1, 2, 3)}
"""Of these, operations that take a part of their input, or order it anew -> the numbers that say how."""
PUTTING = frozenset(
    """
    CopySlices IndexAdd IndexCopy IndexFill IndexPut IndexPutImpl MaskedScatter Scatter ScatterAdd ScatterReduce
    """.split()
)
"""What puts values among others, its first input. Of what is in neither list it is assumed that it picks some."""
ALONG_ONE = frozenset(
    "Gather IndexAdd IndexCopy IndexFill IndexSelect Kthvalue Scatter ScatterAdd ScatterReduce Sort Topk".split()
)
"""What picks or puts along one dimension, which it keeps."""


def part_of(node: Any, samples: int) -> Hashable:
    """Which part of its input an operation takes, where that may be some of the samples."""
    numbers = PARTS.get(_name(node.name()))
    if numbers is None:
        return None
    if numbers == PARTS["ConstantPadNd"]:
        shape, pads = shape_of(*node.next_functions[0]), node._saved_pad
        pairs = enumerate(zip(pads[::2], pads[1::2], strict=True), 1)  # from the last dimension on
        return tuple((axis, pair) for axis, pair in pairs if shape is None or _may_hold(shape, -axis, samples))
    axis, sizes = getattr(node, "_saved_dim", None), getattr(node, "_saved_self_sym_sizes", None)
    if axis is not None and sizes is not None and not _may_hold(sizes, _signed(axis), samples):
        return None
    return tuple(getattr(node, number, None) for number in numbers)


def may_move(node: Any, samples: int) -> bool:
    """Whether the data may decide from which of ``samples`` an operation takes a value, or to which it goes."""
    name, inputs = _name(node.name()), node.next_functions
    if name in KEEPING:
        return False
    if name in PUTTING:
        inputs = inputs[1:]
    # Constants, and rows of a parameter, are no sample's.
    moved = [(source, number) for source, number in inputs if source is not None and not hasattr(source, "variable")]
    shapes = [shape_of(source, number) for source, number in moved]
    if not moved or None in shapes:
        return bool(moved)
    whole = shape_of(node) if name in PUTTING else shapes[0]
    if whole and name in ("Index", "IndexPut", "IndexPutImpl"):
        return _index_may_move(whole, node._saved_indices, samples)
    if whole and name in ("NllLoss", "NllLoss2D"):  # of classes
        return _may_hold(whole, min(1, len(whole) - 1), samples)
    if whole and name in ALONG_ONE:
        return _may_hold(whole, _signed(node._saved_dim), samples)
    return any(size % samples == 0 for shape in (*shapes, shape_of(node)) for size in shape or ())


def shape_of(node: Node, number: int = 0) -> tuple[int, ...] | None:
    """Shape of an operation's output, None where that is not known: nested tensors have none."""
    outputs: Any = getattr(node, "_input_metadata", ())
    if number >= len(outputs) or outputs[number].is_nested_tensor:
        return None
    return tuple(outputs[number].shape)


@cache
def _name(name: str) -> str:
    """``AddmmBackward0 -> Addmm``; what users name ``SomethingBackward``, without a number, stays as it is."""
    return re.sub(r"Backward\d+$", "", name.removeprefix("torch::autograd::"))


def _signed(axis: int) -> int:
    """An axis as it was given: those from the end are saved without their sign."""
    return axis - 2**64 if axis >= 2**63 else axis


def _may_hold(shape: Any, axis: int, samples: int) -> bool:
    """Whether a dimension may be that of the samples: the first one, be it with rows of padding, or one as long as they
    are many, or as a multiple where the first is none."""
    axis %= len(shape)
    return bool(axis == 0 or shape[axis] == samples or (shape[axis] % samples == 0 and shape[0] % samples))


def _index_may_move(shape: tuple[int, ...], indices: Sequence[Tensor | None], samples: int) -> bool:
    """Whether an index, of one tensor a dimension or a mask for several, may take a sample to where another was."""
    axis, moving, settled = 0, list[int](), False
    for index in indices:
        covered = 1
        if index is not None and index.dtype == torch.bool and index.ndim > 1:
            covered = index.ndim
            if math.prod(shape[axis : axis + covered]) % samples == 0 and not _is_range(index):
                return True
        elif index is not None and not _is_range(index):
            moving.append(axis)
        elif index is not None and len(index) == shape[axis] == samples:
            settled = True
        axis += covered
    # Where each sample is at its own place along one dimension, another is theirs only if it is as long.
    return any(shape[at] % samples == 0 if settled else _may_hold(shape, at, samples) for at in moving)


def _is_range(index: Tensor) -> bool:
    """Whether an index is ``0 … B − 1``, or a mask that lets all through, which moves nothing."""
    if not index.numel():
        return True
    if index.is_cuda and torch.cuda.is_current_stream_capturing():
        return False  # it cannot be looked at
    if index.dtype == torch.bool:
        return bool(index.all())
    if not index.ndim:
        return False
    return bool((index.reshape(len(index), -1) == torch.arange(len(index), device=index.device)[:, None]).all())
