"""Which kernels of a call are worth timing. Each rule says why it may drop what it drops.

Without rules a weight gradient of AlexNet has some 10 kernels in 4 or more numbers of pieces each; with them
between 3 and 20 are left, among which the model's estimates are too close, or too coarse, to tell.
"""

from __future__ import annotations

from typing import Any

#: Rows for the shapes that others refuse. They move one element where the others move 4 or 8, by estimate a
#: factor of 3 slower: they are timed only where nothing else applies.
GENERIC = ("_generic", "_any")

#: Kernels whose estimated time is more than so many times the least one's are not timed. The estimate weighs
#: padding, the last wave of blocks and the rate of the inner loop; what it leaves out (caches, latency, clock
#: rates) is not expected to make up a factor of 4.
COST_FACTOR = 4.0

#: A piece of a cut sum is at least so many terms: one step of 32 for each of the 4 stages of the longest
#: pipeline. Shorter ones would fill the pipeline and end.
MIN_PIECE = 128

#: Scratch memory for pieces. Writing and reading it back takes about 0.1 ms per 256 MB on the fastest cards,
#: as long as a layer.
MAX_PIECES_BYTES = 256 << 20

#: At most so many, the estimate's best: the time for one shape has to end.
MOST = 24


def candidates(call: Any) -> list[str]:
    """Names of kernels to time, the heuristic's choice first.

    Parameters
    ----------
    call : :class:`pyconvnet.ops.launch.Launch`
        ``rows`` are the kernels that apply, in the heuristic's order; ``costs(pieces)`` their estimates, or
        nothing where the table has none.
    """
    names = [name for name, _ in call.rows]
    kept = _without_generic(names)
    costs = call.costs(0)
    if not costs:
        return kept
    estimates = {name: costs[name] for name in kept if name in costs}
    for name in list(estimates):
        estimates |= _cuts(call, name)
    least = min(estimates.values())
    near = {name for name, cost in estimates.items() if cost <= COST_FACTOR * least}
    order = [name for name in kept if name not in estimates]  # libraries, which the model does not know
    order += sorted(near, key=lambda name: (estimates[name], name))[:MOST]
    first = names[0]
    return [first, *(name for name in order if name != first)]


def _without_generic(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(GENERIC)] or names[:1]


def _cuts(call: Any, name: str) -> dict[str, float]:
    """The same kernel with its sums cut into other numbers of pieces than the one it finds by itself: whole,
    half as many, twice as many. More blocks fill the card, fewer leave less to add up; how much depends on
    the number of multiprocessors, which the heuristic does not look at.
    """
    found = call.pieces(name)
    if found is None:
        return {}
    result = {}
    for pieces in sorted({1, found // 2, 2 * found} - {0, found}):
        if pieces > 1 and call.terms // pieces < MIN_PIECE:
            continue
        nbytes = call.workspace_bytes(name, pieces)
        if nbytes is None or nbytes > MAX_PIECES_BYTES:
            continue  # the kernel cannot be cut so
        result[f"{name}/{pieces}"] = call.costs(pieces)[name]
    return result
