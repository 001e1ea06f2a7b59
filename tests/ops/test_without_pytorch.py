"""``pyconvnet.torch`` where PyTorch is not."""

import importlib
import sys

import pytest

import pyconvnet


def test_importing_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("pyconvnet.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(pyconvnet), "torch", raising=False)
    with pytest.raises(
        ImportError, match=r"pyconvnet\.torch needs PyTorch, .* install it with: pip install torch"
    ):
        importlib.import_module("pyconvnet.torch")
    with pytest.raises(ImportError, match="needs PyTorch"):
        pyconvnet.torch  # noqa: B018
