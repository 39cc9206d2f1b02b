"""What the data tell of the activations: moments, and regressions of what contractions compute."""
