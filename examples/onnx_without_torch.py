"""Images to tokens and back with the files of `vaevq export MODEL -o FOLDER`, without torch and without vaevq.

python onnx_without_torch.py FOLDER PHOTO RECONSTRUCTION.png
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

folder, photo, reconstruction = sys.argv[1:]
encoder = onnxruntime.InferenceSession(f"{folder}/encoder.onnx")
decoder = onnxruntime.InferenceSession(f"{folder}/decoder.onnx")
about = encoder.get_modelmeta().custom_metadata_map  # codebook_size, downsample_factor, model_digest, ...
picture = Image.open(photo).convert({"1": "L", "2": "LA", "3": "RGB", "4": "RGBA"}[about["image_channels"]])
pixels = np.asarray(picture, dtype=np.float32).reshape(picture.height, picture.width, -1) / 127.5 - 1
(tokens,) = encoder.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
(decoded,) = decoder.run(None, {"tokens": tokens})
cropped = decoded[0, :, : picture.height, : picture.width].transpose(1, 2, 0)  # it comes in multiples of f
values = np.clip(np.rint((cropped + 1) * 127.5), 0, 255).astype(np.uint8)
Image.fromarray(values.squeeze(axis=-1) if values.shape[-1] == 1 else values).save(reconstruction)
print(f"{tokens.shape} tokens below {about['codebook_size']}: {reconstruction}")
