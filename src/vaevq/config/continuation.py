"""What may differ between a run and its continuation: it changes no result of steps that are finite."""

CHANGES_NO_RESULT = {
    "data": {"workers", "cache_mib", "max_unreadable_share", "volume_cache"},
    "train": {
        "device",
        "gradient_checkpointing",
        "log_every",
        "evaluate_every",
        "evaluate_images",
        "checkpoint_every",
        "keep_checkpoints",
        "on_nonfinite",
        "nonfinite_limit",
        "digest_every",
        "usage_floor",
        "perplexity_floor",
        "tensorboard",
        "wandb",
    },
    "eval": {"batch_size"},
}
"""Options by section. `vaevq compare` takes runs that differ in these alone for the same."""
