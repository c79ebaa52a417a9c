"""The paper's reading and the released code's: each sets a group of options together."""

import copy
from collections.abc import Mapping
from typing import Any, Literal

from vaevq.config.section import dig, merged

Variant = Literal["paper", "released"]


VARIANTS: dict[Variant, dict[str, Any]] = {
    # The equations as printed: sums, both paths in full, λ_rcs = 1 and λ_dcr = 0.1, cosine annealing, batch 32.
    "paper": {
        "model": {
            "quantizer": {
                "quantize": "sample",
                "quantize_from": 0,
                "gradient": "straight_through",
                "codebook_gradient": False,
                "codebook": "embedding",
                "initial_logvar": 0.0,
                "rcs_weight": 1.0,
                "rcs_form": "mahalanobis",
                "rcs_detach_sigma": True,
                "rcs_min_std": 0.0,
                "rcs_encoder_share": 1.0,
                "rcs_reduction": "image",
                "dcr_weight": 0.1,
                "dcr_target": "prior",
                "dcr_square_root_term": True,
                "kl_weight": 1e-6,  # "in L_net", its weight is not given; the released code's unused one
                "kl_reduction": "image",
            }
        },
        "loss": {"pixel": "l2", "pixel_reduction": "image", "quantized_path": 1.0, "continuous_path": 1.0},
        "train": {"schedule": "cosine", "batch_size": 32},
    },
    # The authors' code as it runs: the mean quantized, σ not detached, means, no DCR or KL in the loss, no schedule.
    "released": {
        "model": {
            "quantizer": {
                "quantize": "mean",
                "quantize_from": 0,
                "gradient": "reparameterized",
                "codebook_gradient": True,
                "codebook": "projected",
                "initial_logvar": 0.0,
                "rcs_weight": 1.0,
                "rcs_form": "mahalanobis",
                "rcs_detach_sigma": False,
                "rcs_min_std": 0.0,
                "rcs_encoder_share": 1.0,
                "rcs_reduction": "element",
                "dcr_weight": 0.0,
                "dcr_target": "prior",
                "dcr_square_root_term": False,
                "kl_weight": 0.0,
                "kl_reduction": "image",
            }
        },
        "loss": {"pixel": "l1", "pixel_reduction": "element", "quantized_path": 0.5, "continuous_path": 0.5},
        "train": {"schedule": "constant", "batch_size": 512},
    },
}


def kind_of(tree: Any) -> Any:
    """The kind of quantizer that a tree names, VAEVQ where it names none."""
    return dig(tree, "model.quantizer.kind") or "vaevq"


def variant_of(tree: Mapping[str, Any]) -> Variant | None:
    """The variant that a tree names; None for none and for a mistake, which the field itself reports."""
    named: Any = tree.get("variant")
    return named if isinstance(named, str) and named in VARIANTS else None


def spelled_out(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the options of its variant in place of the variant's name."""
    variant = variant_of(tree)
    rest = {name: copy.deepcopy(value) for name, value in tree.items() if not (variant and name == "variant")}
    return merged(VARIANTS[variant], rest) if variant else rest
