"""Makes docs/images/reconstructions.png: four photos that come with scikit-image, through a trained tokenizer.

    .venv/bin/python docs/make_pictures.py photos-f8

The photos: astronaut (NASA, public domain), coffee (Rachel Michetti, CC0), chelsea the cat (Stéfan van der Walt, CC0),
rocket (SpaceX, CC0). None of them was trained on.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from skimage import data

import vaevq
from vaevq.data.images import Pixels, resize_shorter, to_pixels, to_tensor
from vaevq.report.pictures import overview, shown, token_map

PHOTOS = {"astronaut": data.astronaut, "coffee": data.coffee, "chelsea": data.chelsea, "rocket": data.rocket}
SIDE = 320


@torch.inference_mode()
def main(model: str) -> None:
    """Writes the picture."""
    tokenizer = vaevq.Tokenizer.from_pretrained(model)
    columns = []
    for photo in PHOTOS.values():
        original: Pixels = resize_shorter(np.ascontiguousarray(photo()), SIDE)
        tokens = tokenizer.encode(to_tensor(original)[None])
        decoded = tokenizer.decode(tokens, size=original.shape[:2])[0]
        reconstruction = to_pixels(decoded)
        columns.append((shown(original), shown(reconstruction), token_map(tokens[0].numpy(), *original.shape[:2])))
    path = Path(__file__).parent / "images" / "reconstructions.png"
    overview(columns, list(PHOTOS)).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main(sys.argv[1])
