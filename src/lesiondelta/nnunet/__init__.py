"""A method becomes a trained model: the only room that imports nnunetv2."""
