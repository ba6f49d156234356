"""What the hot loops of the native CPU kernels are made of, from the compiled library: no kernel is run."""
