"""Triton kernels for GPUs; `qdelta_kernels.gpu` is the door to them."""
