"""What the report calls the metrics. How a value is written is `vaevq.metrics.result`'s matter."""

_LABELS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "psnr_foreground": "PSNR in the foreground",
    "ssim_foreground": "SSIM in the foreground",
    "psnr_3d": "PSNR of volumes",
    "psnr_3d_foreground": "PSNR of volumes in the foreground",
    "lpips_alexnet": "LPIPS (AlexNet)",
    "lpips_vgg16": "LPIPS (VGG16)",
    "rfid": "rFID",
    "rkid": "rKID",
    "size": "codebook size (K)",
    "usage": "codebook usage",
    "usage_of_ceiling": "usage / ceiling",
    "perplexity_share": "perplexity / K",
    "tokens": "held-out tokens (T)",
    "tokens_per_codeword": "tokens a codeword (T/K)",
    "dead_codewords": "dead codewords",
    "entropy_bits": "entropy",
    "bits_per_pixel_entropy": "bits per pixel (entropy)",
    "tokens_per_image": "tokens an image",
    "bits_per_image": "rate an image",
    "bits_per_pixel": "bits per pixel (fixed)",
    "images_per_second": "training speed",
}

_UNITS = {
    **{"psnr": "dB", "ssim": "SSIM, 1 is equal", "perplexity": "codewords", "size": "codewords"},
    **{"entropy_bits": "bits a token", "images_per_second": "images/s", "learning_rate": "step size"},
}


def label(name: str) -> str:
    """The name of a metric for people; of an unknown one, its own name in words."""
    for prefix, words in (("fd_", "Fréchet distance"), ("kid_", "kernel distance")):
        if name.startswith(prefix):
            return f"{words} ({name.removeprefix(prefix)})"
    return _LABELS.get(name, name.replace("_", " "))


def unit(name: str) -> str:
    """What a curve is in. Shares are drawn in percent (see `is_share`)."""
    return "% of the codewords" if is_share(name) else _UNITS.get(name, "")


def is_share(name: str) -> bool:
    """Whether values lie between 0 and 1 and are shown as percentages."""
    return name.startswith("usage") or name.endswith("_share") or name == "changed_tokens"
