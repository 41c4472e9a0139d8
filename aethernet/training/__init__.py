"""Training a network on any folder of pictures, resumable, on a CPU or a GPU.

A recipe says everything that decides the weights; the folders and the machine are arguments::

    from aethernet.networks import preset_config
    from aethernet.training import TrainingRecipe
    from aethernet.training.trainer import train

    recipe = TrainingRecipe(network=preset_config(2, "tiny", scale=2), hours=1.0)
    result = train(recipe, Path("photographs"), Path("runs/tiny"), validation=Path("held_out"))

``finetuning`` brings an int8 network near its float network. Importing this package stays light; those two modules
bring in torch.
"""

from __future__ import annotations

from aethernet.training.recipe import FinetuningRecipe, TrainingRecipe

__all__ = ["FinetuningRecipe", "TrainingRecipe"]
