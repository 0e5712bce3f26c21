"""The method: LeGrad in closed form, and for any block by autograd."""
