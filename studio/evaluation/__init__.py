"""Is it any good, and which checkpoint is best: pictures made, scored, compared with the base model, and shown."""
