"""What the tests share: fakes, small networks and runs, comparisons, planted bugs."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
