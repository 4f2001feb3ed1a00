"""Supernets: one set of weights shared by all architectures of a space, and the trials that train and use them.

`network` makes any model with choices a supernet, `parameters` holds what is learned about the choices, `trainer` is
what a one-shot algorithm implements, `run` what a trial of the kinds `supernet` and `inherit` does. Importing this
package, or `trainer` and `options`, imports no torch.
"""
