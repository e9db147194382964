"""Model descriptions, quantisers, checkpoints (numpy only), and their torch modules, corpora and training."""
