"""Where a position has several codes: its tokens as one tensor, and as q grids that quantizers of one code work on."""

from torch import Tensor


def together(grids: Tensor, codes: int) -> Tensor:
    """(B·q)×h×w, the q grids of an image one after another, to tokens B×h×w×q; to B×h×w where q is 1."""
    if codes == 1:
        return grids
    return grids.view(-1, codes, *grids.shape[1:]).movedim(1, -1).contiguous()


def apart(tokens: Tensor, codes: int) -> Tensor:
    """The inverse of `together`."""
    if codes == 1:
        return tokens
    return tokens.movedim(-1, 1).flatten(0, 1)
