"""Image files to tokens and back: one token file of some images, or a folder of shards of a whole data set."""

from vaevq.codec.images import Encoded, decode_tokens, encode_images, fitting
from vaevq.codec.shards import ShardsEncoded, encode_shards

__all__ = ["Encoded", "ShardsEncoded", "decode_tokens", "encode_images", "encode_shards", "fitting"]
