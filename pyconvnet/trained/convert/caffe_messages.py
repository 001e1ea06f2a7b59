"""Caffe's messages, as far as a trained network's layers need them, for the protobuf library to parse.

The numbers are those of the fields in ``caffe.proto``: files hold no names. A ``.caffemodel`` is one
``NetParameter``, with layers in the older form (``layers``, whose types are numbers) or the newer one
(``layer``, whose types are words); a mean image is one ``BlobProto``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .draft import ConversionError, NotInstalledError

#: Message -> (field, number, type) in order; "*" repeated, "+" repeated and packed.
_FIELDS = {
    "BlobShape": "dim 1 int64+",
    "BlobProto": "num 1 int32, channels 2 int32, height 3 int32, width 4 int32, data 5 float+, "
    "shape 7 BlobShape, double_data 8 double+",
    "ConvolutionParameter": "num_output 1 uint32, bias_term 2 bool, pad 3 uint32*, kernel_size 4 uint32*, "
    "group 5 uint32, stride 6 uint32*, pad_h 9 uint32, pad_w 10 uint32, kernel_h 11 uint32, "
    "kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32, axis 16 int32, dilation 18 uint32*",
    "PoolingParameter": "pool 1 int32, kernel_size 2 uint32, stride 3 uint32, pad 4 uint32, "
    "kernel_h 5 uint32, kernel_w 6 uint32, stride_h 7 uint32, stride_w 8 uint32, pad_h 9 uint32, "
    "pad_w 10 uint32, global_pooling 12 bool, round_mode 13 int32",
    "LRNParameter": "local_size 1 uint32, alpha 2 float, beta 3 float, norm_region 4 int32, k 5 float",
    "InnerProductParameter": "num_output 1 uint32, bias_term 2 bool, axis 5 int32, transpose 6 bool",
    "DropoutParameter": "dropout_ratio 1 float",
    "ReLUParameter": "negative_slope 1 float",
    "ConcatParameter": "concat_dim 1 uint32, axis 2 int32",
    "EltwiseParameter": "operation 1 int32, coeff 2 float*",
    "FlattenParameter": "axis 1 int32, end_axis 2 int32",
    "InputParameter": "shape 1 BlobShape*",
    "TransformationParameter": "scale 1 float, crop_size 3 uint32, mean_file 4 string, mean_value 5 float*",
    "LayerParameter": "name 1 string, type 2 string, bottom 3 string*, top 4 string*, blobs 7 BlobProto*, "
    "transform_param 100 TransformationParameter, concat_param 104 ConcatParameter, "
    "convolution_param 106 ConvolutionParameter, dropout_param 108 DropoutParameter, "
    "eltwise_param 110 EltwiseParameter, inner_product_param 117 InnerProductParameter, "
    "lrn_param 118 LRNParameter, pooling_param 121 PoolingParameter, relu_param 123 ReLUParameter, "
    "flatten_param 135 FlattenParameter, input_param 143 InputParameter",
    "V1LayerParameter": "bottom 2 string*, top 3 string*, name 4 string, type 5 int32, blobs 6 BlobProto*, "
    "concat_param 9 ConcatParameter, convolution_param 10 ConvolutionParameter, "
    "dropout_param 12 DropoutParameter, inner_product_param 17 InnerProductParameter, "
    "lrn_param 18 LRNParameter, pooling_param 19 PoolingParameter, eltwise_param 24 EltwiseParameter, "
    "relu_param 30 ReLUParameter, transform_param 36 TransformationParameter",
    "NetParameter": "name 1 string, layers 2 V1LayerParameter*, input 3 string*, input_dim 4 int32*, "
    "input_shape 8 BlobShape*, layer 100 LayerParameter*",
}

#: Values that a field has where the file leaves it out, other than zero and nothing.
_DEFAULTS = {
    "ConvolutionParameter": {"bias_term": "true", "group": "1", "axis": "1"},
    "PoolingParameter": {"stride": "1"},
    "LRNParameter": {"local_size": "5", "alpha": "1", "beta": "0.75", "k": "1"},
    "InnerProductParameter": {"bias_term": "true", "axis": "1"},
    "DropoutParameter": {"dropout_ratio": "0.5"},
    "ConcatParameter": {"concat_dim": "1", "axis": "1"},
    "EltwiseParameter": {"operation": "1"},
    "FlattenParameter": {"axis": "1", "end_axis": "-1"},
    "TransformationParameter": {"scale": "1"},
}

#: Number of a layer's type in the older form -> its word in the newer one.
V1_TYPES = {
    1: "Accuracy",
    3: "Concat",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    8: "Flatten",
    9: "HDF5Data",
    12: "ImageData",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    19: "Sigmoid",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    23: "TanH",
    24: "WindowData",
    25: "Eltwise",
    29: "MemoryData",
    30: "ArgMax",
    32: "DummyData",
    36: "Silence",
}


@cache
def messages() -> dict[str, Any]:
    """Return the message classes by name.

    Raises
    ------
    NotInstalledError
        (an ImportError) The protobuf library is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise NotInstalledError(
            "load: Caffe's files are read by the protobuf library, which is not installed: "
            "pip install 'pyconvnet[caffe]', or protobuf"
        ) from None
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="pyconvnet_caffe.proto", package="pyconvnet_caffe", syntax="proto2"
    )
    for name, text in _FIELDS.items():
        message = file.message_type.add(name=name)
        for entry in text.split(", "):
            own, number, kind = entry.split()
            many, kind = kind[-1] in "*+", kind.rstrip("*+")
            added = message.field.add(name=own, number=int(number))
            added.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            if kind[0].isupper():
                added.type, added.type_name = field.TYPE_MESSAGE, f".pyconvnet_caffe.{kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
            if entry[-1] == "+":
                added.options.packed = True
            if own in _DEFAULTS.get(name, {}):
                added.default_value = _DEFAULTS[name][own]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"pyconvnet_caffe.{name}") for name in _FIELDS)
    return {descriptor.name: message_factory.GetMessageClass(descriptor) for descriptor in found}


def parse(name: str, data: bytes) -> Any:
    """Parse a message.

    Raises
    ------
    ConversionError
        It is none of that name.
    """
    from google.protobuf.message import DecodeError

    try:
        return messages()[name].FromString(data)
    except DecodeError as error:
        raise ConversionError(f"it is damaged or no {name}: {error}") from None


def array(blob: Any) -> np.ndarray:
    """Return the numbers of a BlobProto in its shape, float32.

    Raises
    ------
    ConversionError
        It has another number of them than its shape says.
    """
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    data = np.array(blob.data or blob.double_data, np.float32)
    size = 1
    for extent in shape:
        size *= extent
    if size != data.size or min(shape, default=1) < 1:
        raise ConversionError(f"a blob of shape {shape} has {data.size} numbers")
    return data.reshape(shape)


def read_mean(path: Path) -> np.ndarray:
    """Read a mean image, (H, W, C) with channels in the file's order, from a ``.binaryproto``."""
    messages()
    mean = array(parse("BlobProto", path.read_bytes()))
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise ConversionError(f"mean: {path} must hold one image (C, H, W), got shape {mean.shape}")
    return np.ascontiguousarray(mean.transpose(1, 2, 0))
