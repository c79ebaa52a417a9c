"""Images and volumes to tokens and back: a token file of some, or a folder of shards of a whole data set."""

from vaevq.codec.images import Encoded, decode_tokens, encode_images, fitting
from vaevq.codec.shards import ShardsEncoded, encode_shards
from vaevq.codec.volumes import VolumeDifference, compare_volumes, decode_volumes

__all__ = [
    "Encoded",
    "ShardsEncoded",
    "VolumeDifference",
    "compare_volumes",
    "decode_tokens",
    "decode_volumes",
    "encode_images",
    "encode_shards",
    "fitting",
]
