"""A tokenizer in formats that run without this package: ONNX and torch.export, compared with PyTorch as they are made.

Two graphs, images to tokens and tokens to images, both of any number of images of any size.
"""

from vaevq.export.export import Exported, Format, export_model

__all__ = ["Exported", "Format", "export_model"]
