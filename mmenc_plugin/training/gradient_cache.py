"""Gradient caching: a loss over a large batch, whose encoder sees a chunk of it at a time.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Views = tuple[Tensor, ...]  # representations [B, D] of one batch, each its own view of it
Encode = Callable[[], Views]  # encodes one chunk
RandomState = tuple[Tensor, Tensor | None]


class GradientCache:
    """The representations of a batch, and the way back from their gradients to the encoder's parameters.

    Activations of one chunk at most are alive at a time: chunks are encoded without a graph, and each once more when
    its gradient is known. A batch of one chunk is encoded once. The random state that a chunk met is kept, so that its
    second encoding draws the same numbers.

    Args:
        chunks: encode the parts of the batch, in order.
        learns: whether `backward` will be called.
    """

    def __init__(self, chunks: Sequence[Encode], learns: bool = True) -> None:
        self._chunks = chunks
        self._states: list[RandomState] = []
        self._graph: Views | None = None
        parts = []
        for chunk in chunks:
            self._states.append(_random_state())
            with torch.set_grad_enabled(learns and len(chunks) == 1):
                parts.append(chunk())
        if learns and len(chunks) == 1:
            self._graph = parts[0]
        self.views: Views = tuple(torch.cat(view).detach() for view in zip(*parts, strict=True))

    def backward(self, gradients: Sequence[Tensor]) -> None:
        """Add to the parameters' gradients what the representations' gradients [B, D], one a view, make of them."""
        start = 0
        for chunk, state in zip(self._chunks, self._states, strict=True):
            if self._graph is None:
                with _restored(state):
                    views = chunk()
            else:
                views, self._graph = self._graph, None
            stop = start + len(views[0])
            _backward(views, [gradient[start:stop] for gradient in gradients])
            start = stop


def cached_backward(chunks: Sequence[Encode], loss: Callable[..., Tensor]) -> Tensor:
    """Take the gradients of a loss of a whole batch, chunk by chunk; they equal those of one large backward pass.

    Args:
        chunks: encode the parts of the batch, in order.
        loss: of the whole batch's views, given as arguments; what learns in it gets its gradient as well.

    Returns:
        The loss, detached. Gradients are added to those of the parameters.
    """
    cache = GradientCache(chunks)
    views = [view.requires_grad_() for view in cache.views]
    value = loss(*views)
    value.backward()  # type: ignore[no-untyped-call]
    cache.backward([torch.zeros_like(view) if view.grad is None else view.grad for view in views])
    return value.detach()


def _backward(views: Views, gradients: Sequence[Tensor]) -> None:
    """Views that nothing learns behind, such as those of a frozen tower, are left out."""
    learning = [pair for pair in zip(views, gradients, strict=True) if pair[0].requires_grad]
    if learning:
        torch.autograd.backward([view for view, _ in learning], [g.to(view.dtype) for view, g in learning])


def _random_state() -> RandomState:
    """Torch's on the CPU and on the current GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


@contextmanager
def _restored(state: RandomState) -> Iterator[None]:
    """The random state of an earlier moment; afterwards that from before."""
    cpu, gpu = state
    with torch.random.fork_rng(devices=[] if gpu is None else [torch.cuda.current_device()]):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
        yield
