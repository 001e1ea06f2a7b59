"""Tiny matrix products, worked out once for a kind of arguments, then a few NumPy calls at each repetition.

Where products are tiny, nearly all of the time goes into finding what is to be multiplied. So it is found
once, as indices: which elements of two arrays make the operands, and which results make the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

#: Elements of all operands and results together, at most: what is kept stays below 160 kB.
MOST_ELEMENTS = 4096
#: Multiply-adds of one product, at most: BLAS uses one thread below.
MOST_MULTIPLY_ADDS = 8192


class Product(NamedTuple):
    """One product a @ b, by numbers of elements: 1 and up, 0 for what is zero.

    Attributes
    ----------
    a : (M, L), or (L, M) where products are taken of a's transpose
    b : (L, K)
    out : (M, K), elements of the output
    """

    a: np.ndarray
    b: np.ndarray
    out: np.ndarray


class _Memory(NamedTuple):
    """What one call works on; calls at the same time have one each."""

    padded: np.ndarray | None
    inside: np.ndarray | None
    a: np.ndarray
    b: np.ndarray
    products: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    results: np.ndarray
    terms: np.ndarray | None


class Products:
    """The products of arrays of certain shapes; `small` makes them.

    Calling one with (x, w, out) sets `out` completely: each element to the result of the product that has it,
    or to the sum over those that have it, in their order; to zero where there is none.
    """

    def __init__(
        self,
        products: list[Product],
        x_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        dtype: Any,
        terms: int,
    ):
        self._x_shape, self._dtype, self._summed = x_shape, dtype, terms > 0
        kinds: dict[tuple, list[int]] = {}
        for i, product in enumerate(products):
            kinds.setdefault((product.a.shape, product.b.shape, product.out.shape), []).append(i)
        #: (how many, of a, of b, of the result) of products of one size, which one call computes.
        self._kinds = [(len(members), *shapes) for shapes, members in kinds.items()]
        in_order = [i for members in kinds.values() for i in members]
        first = np.concatenate([products[i].a.ravel() for i in in_order])
        self._padded = bool((first == 0).any())
        self._first = first.astype(np.intp) - (not self._padded)
        self._second = np.concatenate([products[i].b.ravel() for i in in_order]).astype(np.intp) - 1
        places = np.zeros((max(1, terms), math.prod(out_shape)), np.intp)
        start = 1  # result 0 is zero
        for i in in_order:
            out = products[i].out.ravel()
            places[i % len(places), out - 1] = np.arange(start, start + out.size)
            start += out.size
        self._results = start
        self._places = places.reshape((terms, *out_shape) if terms else out_shape)
        self._free: list[_Memory] = []

    def _memory(self) -> _Memory:
        a, b = np.empty(self._first.size, self._dtype), np.empty(self._second.size, self._dtype)
        results = np.zeros(self._results, self._dtype)
        at_a, at_b, at, views = 0, 0, 1, []
        for count, of_a, of_b, of_out in self._kinds:
            end_a, end_b = at_a + count * of_a[0] * of_a[1], at_b + count * of_b[0] * of_b[1]
            end = at + count * of_out[0] * of_out[1]
            left = a[at_a:end_a].reshape(count, *of_a)
            left = left.transpose(0, 2, 1) if self._summed else left
            right = b[at_b:end_b].reshape(count, *of_b)
            views.append((left, right, results[at:end].reshape(count, *of_out)))
            at_a, at_b, at = end_a, end_b, end
        padded = inside = None
        if self._padded:
            padded = np.zeros(1 + math.prod(self._x_shape), self._dtype)
            inside = padded[1:].reshape(self._x_shape)
        terms = np.empty(self._places.shape, self._dtype) if self._summed else None
        return _Memory(padded, inside, a, b, views, results, terms)

    def __call__(self, x: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
        try:
            memory = self._free.pop()
        except IndexError:  # the first call, or others are on their way
            memory = self._memory()
        padded, inside, a, b, products, results, terms = memory
        if padded is not None:
            np.copyto(inside, x)
            x = padded
        x.take(self._first, None, a, "clip")
        w.take(self._second, None, b, "clip")
        for left, right, result in products:
            np.matmul(left, right, result)
        if terms is None:
            results.take(self._places, None, out, "clip")
        else:
            results.take(self._places, None, terms, "clip")
            np.add.reduce(terms, 0, None, out, initial=0)
        self._free.append(memory)


def small(
    products: Iterable[Product | None],
    x_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    dtype: Any,
    *,
    sums_of: int = 0,
) -> Products | None:
    """Make the products callable; None where they are too large, there is none, or one of them is None.

    Parameters
    ----------
    sums_of :
        So many parts of the output, one after the other, are sums of equally many products, of a's transpose;
        0: there are no sums.
    """
    kept: list[Product] = []
    elements = 0
    for product in products:
        if product is None:
            return None
        elements += product.a.size + product.b.size + product.out.size
        if elements > MOST_ELEMENTS or product.a.size * product.b.shape[1] > MOST_MULTIPLY_ADDS:
            return None
        kept.append(product)
    terms = len(kept) // sums_of if sums_of else 0
    if not kept or terms * math.prod(out_shape) > MOST_ELEMENTS:
        return None
    return Products(kept, x_shape, out_shape, dtype, terms)
