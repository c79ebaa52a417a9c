"""`vaevq import`."""

from pathlib import Path

import tyro

from vaevq.cli.options import Output
from vaevq.console import say, say_rows


def import_weights(
    file: tyro.conf.Positional[Path],
    /,
    *,
    output: Output,
    force: bool = False,
) -> None:
    """Make a model folder of a published tokenizer: a VQGAN of taming-transformers, or LlamaGen's VQ-8 and VQ-16.

    Which of them a file is, and the shape of its networks, is read from the tensors; nothing in the file is run. The
    folder can stand wherever a model is asked for.

    For example:

      vaevq import vqgan_imagenet_f16_16384.ckpt -o models/vqgan
      vaevq import vq_ds16_c2i.pt -o models/llamagen-vq16
      vaevq train --data ~/photos --init-from models/vqgan

    Args:
        file: the published weights: .ckpt, .pt, .pth, .bin or .safetensors.
        output: the model folder to write.
        force: overwrite the model that is there.
    """
    from vaevq.files import make_folder, require_absent
    from vaevq.inspection import inspect_path
    from vaevq.interop.published import read_published
    from vaevq.saved import MODEL_FILES

    require_absent([output / name for name in MODEL_FILES], force=force)
    published = read_published(file)
    make_folder(output)
    published.tokenizer.save_pretrained(output)
    say_rows(f"{file}: {published.layout}", inspect_path(output))
    say(f"next          vaevq encode PHOTO.jpg --model {output} -o tokens.safetensors")
