"""The parts of ``scaling_model.py``, which says what they compute and with which formulas."""
