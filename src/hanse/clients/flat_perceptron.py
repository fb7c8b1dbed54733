"""Gradients of `nn.Sequential(nn.Linear, nn.ReLU, …, nn.Linear)` under cross entropy without autograd.

The operations are those that autograd would call, in its order and on operands of the same layout, so that the bits are
the same (the tests compare them); what is saved is the recording of a graph, half of a step of a small perceptron.
Layers one unit wide and batches of one example are left to autograd, which multiplies in another order there (a matrix
with one row has no layout to choose by), as is every other module and loss (`flat.py`).
"""

from collections.abc import Callable
from typing import Any

from hanse.clients.tensors import imported


def is_perceptron(module: Any) -> bool:
    """Whether a module is such a sequence: with biases, every layer once, trained in float32 or float64, no hooks."""
    torch = imported()
    nn = torch.nn
    if type(module) is not nn.Sequential or len(module) % 2 == 0:
        return False
    layers = list(module)
    kinds = [nn.Linear if place % 2 == 0 else nn.ReLU for place in range(len(layers))]
    if any(type(layer) is not kind for layer, kind in zip(layers, kinds, strict=True)):
        return False
    linear = layers[::2]
    parameters = [parameter for layer in linear for parameter in (layer.weight, layer.bias)]
    return (
        all(p is not None and p.requires_grad and p.dtype in (torch.float32, torch.float64) for p in parameters)
        and len({id(p) for p in parameters}) == len(parameters)
        and not any(_is_hooked(layer) for layer in [module, *layers])
    )


def is_wide(module: Any) -> bool:
    """Whether every layer of a perceptron is wide enough for `gradients_of`."""
    return all(min(layer.weight.shape) > 1 for layer in module[::2])


def gradients_of(module: Any) -> Callable[[Any, Any], Any]:
    """`f(X, y) -> loss` of a perceptron: fills the parameters' `.grad`, and answers the mean cross entropy.

    Args:
        module: as `is_perceptron` and `is_wide` say; its parameters and their gradients stay where they are in memory.
    """
    torch = imported()
    aten = torch.ops.aten
    layers = [(layer.weight.detach(), layer.bias.detach()) for layer in module[::2]]
    turned = [(weight.t(), bias) for weight, bias in layers]
    grads = [(layer.weight.grad, layer.bias.grad) for layer in module[::2]]
    last = len(layers) - 1

    def gradients(X: Any, y: Any) -> Any:
        inputs = [X]
        for place, (weight, bias) in enumerate(turned):
            output = torch.addmm(bias, inputs[-1], weight)
            inputs.append(output if place == last else torch.relu_(output))
        scores = inputs.pop()
        log_chances = torch.log_softmax(scores, 1)
        loss = torch.nn.functional.nll_loss(log_chances, y)
        slopes = torch.zeros_like(log_chances).scatter_(1, y.unsqueeze(1), -1.0 / len(y))
        slopes = torch._log_softmax_backward_data(slopes, log_chances, 1, scores.dtype)
        for place in range(last, -1, -1):
            weight_grad, bias_grad = grads[place]
            torch.mm(slopes.t(), inputs[place], out=weight_grad)
            torch.sum(slopes, 0, out=bias_grad)
            if place:
                slopes = aten.threshold_backward(torch.mm(slopes, layers[place][0]), inputs[place], 0)
        return loss

    return gradients


def _is_hooked(layer: Any) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
