"""How children are trained: one recipe for each budget.

The recipes say everything but the cells. The width is given as the filters F
of the first cells, because the filters of the last layer follow from how many
states a cell concatenates.
"""

import dataclasses

import keras_nasnet
from training import train
from training.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a child gets.

    Args:
        recipe: A `training.recipes.Recipe`. What it evaluates on decides the
            reward.
        filters: Integer F, filters of the first cells.
        parameters: Integer, about how many parameters every network has:
            then `filters` is only where the search for its width begins.
            `None` for the same filters in all networks.
    """

    recipe: Recipe
    filters: int
    parameters: int | None = None

    def recipe_for(self, genotype):
        """Returns the recipe to train a network of certain cells.

        Args:
            genotype: A `keras_nasnet.Genotype`.
        """
        recipe = self._recipe(genotype, self.filters)
        if self.parameters is None:
            return recipe
        sizes = {self.filters: _count_params(recipe)}
        filters = self.filters
        while True:
            # Parameters grow a little slower than with the square.
            factor = (self.parameters / sizes[filters]) ** 0.5
            filters = max(1, round(filters * factor))
            if filters in sizes:
                break
            sizes[filters] = _count_params(self._recipe(genotype, filters))
        nearest = min(sizes, key=lambda f: abs(sizes[f] - self.parameters))
        return self._recipe(genotype, nearest)

    def _recipe(self, genotype, filters):
        # They double at each of two reductions.
        return train.with_cells(self.recipe, genotype, 4 * filters)


def _count_params(recipe):
    factory = getattr(keras_nasnet, recipe.factory)
    return factory(weights=None, **recipe.model).count_params()


def _cifar(filters, num_cells, epochs, images=45_000, size=32, **changes):
    recipe = Recipe(
        factory="NASNetCIFAR",
        model={
            "num_cells": num_cells,
            "input_shape": (size, size, 3),
            "weight_decay": 5e-4,
        },
        dataset="cifar10",
        train_split=f"train[:{images}]",
        # Never the test images.
        eval_split="train[45000:]",
        pipeline="cifar",
        pipeline_args={"pad": size // 8, "image_size": size},
        batch_size=128,
        epochs=epochs,
        optimizer="sgd",
        learning_rate=0.1,
        clip_norm=5.0,
    )
    return Budget(dataclasses.replace(recipe, **changes), filters)


BUDGETS = {
    # As published, as far as it is: N, epochs, cosine, momentum, L2 and the
    # 5,000 images held out. F is that of NASNet-A for CIFAR-10.
    "paper": _cifar(filters=32, num_cells=2, epochs=20),
    # For the best of a search, "to convergence" in the paper, which tells
    # neither size nor epochs. N and F are those of its smallest NASNet-A for
    # CIFAR-10, 6 @ 768. The epochs are chosen: PNASNet's paper is said to
    # count 13.5 million images for each of NASNet's best, 300 times 45,000,
    # but nobody has checked that here.
    "paper_final": _cifar(filters=32, num_cells=6, epochs=300),
    # Less than a minute on one core, of which a third builds the network.
    "laptop": _cifar(
        filters=8, num_cells=1, epochs=1, images=10_000, size=16, batch_size=64
    ),
    # Some minutes on one core.
    "laptop_final": _cifar(
        filters=16, num_cells=1, epochs=6, size=16, batch_size=64
    ),
}
