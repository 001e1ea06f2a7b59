"""Training: options, the loop over epochs, what is written down, going on after an end."""
