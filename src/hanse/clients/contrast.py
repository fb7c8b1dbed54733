"""`hs.contrast`: MOON's loss for a PyTorch training function.

Li, He, Song, "Model-contrastive federated learning", CVPR 2021, https://arxiv.org/abs/2103.16257, Equation 3. What the
strategy puts into `config` is in `strategies/moon.py`.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from hanse.clients.tensors import imported
from hanse.clients.torch import load_into

Represent = Callable[[Any, Any], Any]
"""f(module, x) -> z, `(batch, features)`: what the classifier's last layer is given."""


def contrast(module: Any, config: Mapping[str, Any], represent: Represent) -> Callable[[Any], Any]:
    """μ ℓ_con as a function of a batch. Call it at the beginning of training, while `module` is the received model.

        ℓ_con = mean of −log( exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ)) )

    with sim the cosine.

    Two copies of the module are kept, in evaluation mode and without gradients. Under another strategy than `hs.Moon`
    the function answers 0, so that one training function serves both.

    Args:
        module: the module that is trained.
        config: as the training function got it.
        represent: gives a module's representation of a batch.

    Returns:
        A function of a batch `x`; its value is a tensor without dimensions, to be added to the loss.

    Example:
        def train(module, config, site):
            extra = hs.contrast(module, config, represent=lambda m, x: m[:-1](x))
            for x, y in batches:
                loss = cross_entropy(module(x), y) + extra(x)
    """
    torch = imported()
    if "previous" not in config:
        return lambda x: torch.zeros(())
    received, previous = _still(module), _still(module)
    load_into(previous, config["previous"])
    mu, temperature = float(config["contrast_mu"]), float(config["temperature"])
    cosine = torch.nn.functional.cosine_similarity

    def loss(x: Any) -> Any:
        with torch.no_grad():
            z_glob, z_prev = (represent(each, x).flatten(1) for each in (received, previous))
        z = represent(module, x).flatten(1)
        sims = torch.stack([cosine(z, z_glob, dim=1), cosine(z, z_prev, dim=1)], dim=1) / temperature
        target = torch.zeros(len(sims), dtype=torch.long, device=sims.device)
        return mu * torch.nn.functional.cross_entropy(sims, target)

    return loss


def _still(module: Any) -> Any:
    """A copy in evaluation mode."""
    return copy.deepcopy(module).eval().requires_grad_(False)
