"""Caffe's .caffemodel and .binaryproto, written byte by byte: wire format and field numbers, no library."""

import struct

import numpy as np


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """One field: a number, a float, text, bytes (a message), or an array of floats, packed."""
    if isinstance(value, bool | int | np.integer):
        return varint(number << 3) + varint(int(value))
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, np.ndarray):
        value = value.astype("<f4").tobytes()
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(*fields):
    return b"".join(field(number, value) for number, value in fields)


def blob(array, old):
    """A BlobProto: of the old form with four extents, else with a shape."""
    if old:
        extents = (1,) * (4 - array.ndim) + array.shape
        return message(*enumerate(extents, 1), (5, array))
    shape = field(1, b"".join(map(varint, array.shape)))
    return message((5, array), (7, shape))


#: kind -> (its number in the old form, number of its options in the old and in the new form)
KINDS = {
    "Data": (5, 0, 0), "Input": (0, 0, 143), "Convolution": (4, 10, 106), "ReLU": (18, 30, 123),
    "LRN": (15, 18, 118), "Pooling": (17, 19, 121), "InnerProduct": (14, 17, 117), "Dropout": (6, 12, 108),
    "Softmax": (20, 0, 0), "SoftmaxWithLoss": (21, 0, 0), "Concat": (3, 9, 104), "Eltwise": (25, 24, 110),
    "Sigmoid": (19, 0, 0), "TanH": (23, 0, 0), "Split": (22, 0, 0), "Flatten": (8, 0, 135),
    "BatchNorm": (0, 0, 0), "AbsVal": (35, 0, 0), "Accuracy": (1, 0, 0),
}  # fmt: skip


def layer(kind, name, bottoms, tops, options=(), blobs=(), transform=(), old=False):
    """A layer of either form; options by field number."""
    number, old_options, new_options = KINDS[kind]
    if old:
        fields = [*((2, b) for b in bottoms), *((3, t) for t in tops), (4, name), (5, number)]
        fields += [(6, blob(b, True)) for b in blobs]
        fields += [(old_options, message(*options))] if options else []
        fields += [(36, message(*transform))] if transform else []
    else:
        fields = [(1, name), (2, kind), *((3, b) for b in bottoms), *((4, t) for t in tops)]
        fields += [(7, blob(b, False)) for b in blobs]
        fields += [(100, message(*transform))] if transform else []
        fields += [(new_options, message(*options))] if options else []
    return message(*fields)


def net(name, layers, old=False, more=()):
    return message((1, name), *more, *((2 if old else 100, one) for one in layers))


def binaryproto(mean):
    """A mean image (C, H, W)."""
    return blob(mean[None], True)


def alexnet(rng, old=False, caffenet=False, widths=(8, 12, 16, 12, 8, 24, 16), classes=10):
    """(layers, arrays by name) of bvlc_alexnet, or bvlc_reference_caffenet, which pools before it normalises;
    filters in two groups in conv2, conv4 and conv5.
    """
    arrays, layers = {}, []

    def add(kind, name, bottom, top, options=(), shape=None):
        blobs = []
        if shape:
            std = np.sqrt(2 / np.prod(shape[1:]))
            blobs = [rng.normal(size=shape) * std, rng.normal(size=shape[0]) * 0.1]
            blobs = arrays[name] = [b.astype(np.float32) for b in blobs]
        layers.append(layer(kind, name, [bottom], [top], options, blobs, old=old))
        return top

    mirror = [(2, True), (3, 227), (4, "data/ilsvrc12/imagenet_mean.binaryproto")]
    layers.append(layer("Data", "data", [], ["data", "label"], transform=mirror, old=old))
    x, channels = "data", 3
    table = ((11, 4, 0, 1), (5, 1, 2, 2), (3, 1, 1, 1), (3, 1, 1, 2), (3, 1, 1, 2))
    for i, (filters, (size, stride, pad, groups)) in enumerate(zip(widths, table, strict=False), 1):
        options = [(1, filters), (3, pad), (4, size), (5, groups), (6, stride)]
        x = add("Convolution", f"conv{i}", x, f"conv{i}", options, (filters, channels // groups, size, size))
        x, channels = add("ReLU", f"relu{i}", x, x), filters
        norm = ("LRN", f"norm{i}", [(1, 5), (2, 0.5), (3, 0.75)])
        pool = ("Pooling", f"pool{i}", [(1, 0), (2, 3), (3, 2)])
        wanted = {1: [norm, pool], 2: [norm, pool], 5: [pool]}.get(i, [])
        for kind, name, how in wanted[::-1] if caffenet else wanted:
            x = add(kind, name, x, name, how)
    features = channels * 36
    for name, outputs in zip(("fc6", "fc7", "fc8"), (*widths[5:], classes), strict=True):
        x = add("InnerProduct", name, x, name, [(1, outputs)], (outputs, features))
        features = outputs
        if name != "fc8":
            x = add("ReLU", f"relu{name[2]}", x, x)
            x = add("Dropout", f"drop{name[2]}", x, x, [(1, 0.5)])
    layers.append(layer("SoftmaxWithLoss", "loss", [x, "label"], ["loss"], old=old))
    return layers, arrays
