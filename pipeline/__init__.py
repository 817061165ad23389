"""What runs: configuration, training on DeepSpeed, checkpoints, evaluation, embedding, logs and pictures."""
