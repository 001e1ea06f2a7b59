"""Train a small network on scikit-learn's scanned digits, and see what it says of some it has not seen.

    python examples/digits.py
"""

import pyconvnet as pcn

run = pcn.train("digits", "digits", epochs=5, seed=1)
print(pcn.evaluate(run, "digits"))
for guesses in pcn.predict(run, pcn.Digits(train=False).read(range(5)), top=2):
    print(guesses)
