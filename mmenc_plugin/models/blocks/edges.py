"""The pairs of users and items as edges whose weights are computed, and learned, rather than given."""

from __future__ import annotations

from torch import Tensor

from mmenc_plugin.models.blocks.learned_graph import Pattern


class Edges(Pattern):
    """E distinct pairs of a user and an item, with what a layer of attention does over them.

    Nothing of [E, D] is made or kept for the gradient. The pairs are not saved with the model.

    Args:
        users: [E], by rising user, then item.
        items: [E].
        n_users: U.
        n_items: I.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        super().__init__(users, items, (n_users, n_items))

    @property
    def users(self) -> Tensor:
        """[E] the user of each edge."""
        return self.rows

    @property
    def items(self) -> Tensor:
        """[E] the item of each edge."""
        return self.columns

    def dots(self, users: Tensor, items: Tensor) -> Tensor:
        """[E] the products of the embeddings [U, D] and [I, D] at the ends of each edge."""
        return self.products(users, items)

    def to_users(self, weights: Tensor, items: Tensor) -> Tensor:
        """[U, D] each user's sum of their items' embeddings [I, D] by the edges' weights [E]."""
        return self.multiply(weights, items)

    def to_items(self, weights: Tensor, users: Tensor) -> Tensor:
        """[I, D] each item's sum of its users' embeddings [U, D] by the edges' weights [E]."""
        return self.multiply(weights, users, transposed=True)

    def softmax_of_users(self, scores: Tensor) -> Tensor:
        """[E] softmax of the scores [E] over the edges of each user; scores of 80 and more would overflow."""
        powers = scores.exp()
        return powers / self.to_users(powers, powers.new_ones(self.shape[1], 1))[self.users, 0]

    def softmax_of_items(self, scores: Tensor) -> Tensor:
        """[E] softmax of the scores [E] over the edges of each item; scores of 80 and more would overflow."""
        powers = scores.exp()
        return powers / self.to_items(powers, powers.new_ones(self.shape[0], 1))[self.items, 0]
