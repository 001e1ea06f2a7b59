"""Docstrings of functions say what the function does, in the imperative."""

import ast
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PACKAGE = ROOT / "pyconvnet"

_VERBS = """
    Add Allocate Answer Append Apply Ask Assemble Augment Average Begin Bring Build Call Change Check Choose
    Clear Close Collect Combine Compare Compute Continue Convert Convolve Copy Count Crop Cut Decide Decode
    Delete Describe Divide Download Draw Drop End Enqueue Estimate Evaluate Exchange Fetch Fill Find Finish
    Forget Gather Give Go Hand Hold Import Iterate Join Keep Launch Lay Learn Leave Lend Let List Load Look
    Make Map Mark Measure Merge Move Name Normalise Note Open Order Overwrite Parse Place Plot Prepare Print
    Put Raise Read Rearrange Rebuild Record Refuse Register Release Remember Remove Replace Require Rescale
    Resolve Return Round Run Save Say Scale Search Send Set Show Sort Split Start Stop Sum Tabulate Take Tell
    Test Time Train Try Turn Undo Update Use View Wait Warn Weigh Write Yield Zero
"""
VERBS = frozenset(_VERBS.split())


def not_imperative(source, where="module"):
    """The functions and methods (properties are things, not deeds) whose docstrings begin with no verb."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or ast.get_docstring(node) is None:
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if any(d.split(".")[-1] in ("property", "cached_property", "setter") for d in decorators):
            continue
        first = ast.get_docstring(node).split(maxsplit=1)[0].rstrip(".,;:")
        if first not in VERBS:
            found.append(f"{where}:{node.lineno} {node.name}: {first}")
    return found


def test_docstrings_begin_with_a_verb():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += not_imperative(path.read_text(), str(path.relative_to(PACKAGE)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("first", ["The", "A", "Whether", "What", "How", "Every", "y", "``out``", "Returns"])
def test_other_beginnings_are_found(first):
    assert not_imperative(f'def f():\n    """{first} thing."""') == [f"module:1 f: {first}"]
    assert not not_imperative(f'class K:\n    @property\n    def f(self):\n        """{first} thing."""')
    assert not not_imperative(f'def f():\n    """Return {first}."""')
