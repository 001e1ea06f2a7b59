"""Which kernels of a call are worth timing. Each rule says why it may drop what it drops.

Without rules a weight gradient of AlexNet has some 10 kernels in 4 or more numbers of splits each; with them
between 3 and 20 are left, among which the model's estimates are too close, or too coarse, to tell.
"""

from __future__ import annotations

from typing import Any

from ..core import STREAM_K

#: Rows for the shapes that others refuse. They move one element where the others move 4 or 8, by estimate a
#: factor of 3 slower: they are timed only where nothing else applies.
GENERIC = ("_generic", "_any")

#: Kernels whose estimated time is more than so many times the least one's are not timed. The estimate weighs
#: padding, the last wave of blocks and the rate of the inner loop; what it leaves out (caches, latency, clock
#: rates) is not expected to make up a factor of 4.
COST_FACTOR = 4.0

#: A split of a sum is at least so many terms: one step of 32 for each of the 4 stages of the longest
#: pipeline. Shorter ones would fill the pipeline and end.
MIN_SPLIT_TERMS = 128

#: Scratch memory for the splits' sums. Writing and reading it back takes about 0.1 ms per 256 MB on the
#: fastest cards, as long as a layer.
MAX_SPLITS_BYTES = 256 << 20

#: At most so many, the estimate's best: the time for one shape has to end.
MOST = 24


def candidates(call: Any) -> list[str]:
    """Name the kernels to time, the heuristic's choice first.

    Parameters
    ----------
    call : :class:`pyconvnet.ops.launch.Launch`
        ``rows`` are the kernels that apply, in the heuristic's order; ``costs(splits)`` their estimates, or
        nothing where the table has none.
    """
    names = [name for name, _ in call.rows]
    kept = _without_generic(names)
    costs = call.costs(0)
    if not costs:
        return kept
    estimates = {name: costs[name] for name in kept if name in costs}
    for name in list(estimates):
        estimates |= _other_splits(call, name)
    least = min(estimates.values(), default=0.0)  # none: a library and generic kernels alone
    near = {name for name, cost in estimates.items() if cost <= COST_FACTOR * least}
    order = [name for name in kept if name not in estimates]  # libraries, which the model does not know
    order += sorted(near, key=lambda name: (estimates[name], name))[:MOST]
    first = names[0]
    return [first, *(name for name in order if name != first)]


def _without_generic(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(GENERIC)] or names[:1]


def _other_splits(call: Any, name: str) -> dict[str, float]:
    """Estimate a kernel cut otherwise than it finds good by itself: not at all, into half as many splits,
    into twice as many, or with tiles that blocks share (stream-K). More blocks fill the card, fewer leave
    less to add up; how much depends on the number of multiprocessors, which the heuristic does not look at.
    """
    found = call.splits(name)
    if found is None:
        return {}
    numbers = {found // 2, 2 * found} if found > 0 else set()
    result = {}
    for splits in sorted({STREAM_K, 1, *numbers} - {0, found}):
        if splits > 1 and call.terms // splits < MIN_SPLIT_TERMS:
            continue
        nbytes = call.workspace_bytes(name, splits)
        if nbytes is None or nbytes > MAX_SPLITS_BYTES:
            continue  # the kernel cannot split so
        suffix = "stream-k" if splits == STREAM_K else splits
        result[f"{name}/{suffix}"] = call.costs(splits)[name]
    return result
