"""How figures are called and written: a metric's name as a label, a number with its unit, and which way is better."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What a figure is called and how it is written.

    Attributes:
        label: its name for people.
        unit: after the number; `%` figures are kept as shares and written times 100.
        better: `higher`, `lower`, or nothing where neither is.
        digits: after the point; None for three significant ones.
    """

    label: str
    unit: str = ""
    better: str = ""
    digits: int | None = None

    def write(self, value: Any) -> str:
        """A value with its unit; a dash for none."""
        if not isinstance(value, int | float):
            return "–" if value is None else str(value)
        if self.unit == "%":
            value = 100 * value
        digits = 0 if isinstance(value, int) else self.digits
        number = f"{value:,.{digits}f}" if digits is not None else f"{value:.4g}"
        return f"{number} {self.unit}".rstrip()


_KNOWN = {
    "psnr": Figure("PSNR", "dB", "higher", 2),
    "ssim": Figure("SSIM", "", "higher", 3),
    "lpips": Figure("LPIPS", "", "lower", 3),
    "rfid": Figure("rFID", "", "lower", 2),
    "usage": Figure("codebook usage", "%", "higher", 1),
    "usage_ceiling": Figure("usage ceiling, 1 − e^(−T/K)", "%", "", 1),
    "usage_of_ceiling": Figure("usage, share of its ceiling", "%", "higher", 1),
    "perplexity": Figure("perplexity", "codewords", "higher", 0),
    "perplexity_share": Figure("perplexity / K", "%", "higher", 1),
    "codebook_size": Figure("codewords (K)", "", "", 0),
    "tokens": Figure("held-out tokens (T)", "", "", 0),
    "tokens_per_codeword": Figure("held-out tokens a codeword (T/K)", "", "", 1),
    "dead_codewords": Figure("codewords that never occur", "", "lower", 0),
    "entropy_bits": Figure("entropy", "bits a token", "", 2),
    "images": Figure("images", "", "", 0),
}

_PREFIXES = {
    "lpips_": Figure("LPIPS", "", "lower", 3),
    "fd_": Figure("Fréchet distance", "", "lower", 2),
    "frechet_": Figure("Fréchet distance", "", "lower", 2),
    "kid_": Figure("KID", "", "lower", 5),
    "bits_per_pixel": Figure("bits a pixel", "", "lower", 4),
}


def figure(name: str) -> Figure:
    """How the metric called `name` is written; of an unknown one, its name in words."""
    if name in _KNOWN:
        return _KNOWN[name]
    for prefix, known in _PREFIXES.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix).strip("_").replace("_", " ")
            label = f"{known.label} ({rest})" if rest else known.label
            return Figure(label, known.unit, known.better, known.digits)
    return Figure(name.replace("_", " "))
