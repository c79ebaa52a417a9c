"""How many numbers a network has learned: its parameters, and codewords that are averaged instead of descended."""

from torch import nn

from vaevq.quantization.averaged import AveragedCodebook


def learned_count(module: nn.Module) -> int:
    """Of all parts of a module, each number once."""
    averaged = [part.embedding for part in module.modules() if isinstance(part, AveragedCodebook)]
    return sum(tensor.numel() for tensor in [*module.parameters(), *averaged])
