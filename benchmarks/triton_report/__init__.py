"""What the Triton kernels are compiled to, for every target they are shipped for; no GPU is needed."""
