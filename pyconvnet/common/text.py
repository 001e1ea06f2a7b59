"""Words of messages: values and errors as one short line."""

from __future__ import annotations


def cut(text: str, length: int = 200) -> str:
    """``text``, or its beginning where it is longer than ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def reason(error: BaseException) -> str:
    """Why something failed: an error's own words where it has any, else its kind; never empty, never long."""
    text = cut(" ".join(str(error).split()))
    if isinstance(error, EOFError):
        return text or "it ends too early"
    if isinstance(error, KeyError):
        return f"{text} is missing"
    return text or type(error).__name__
